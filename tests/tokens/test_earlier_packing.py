"""A packed file that was written before still gives its ids, whatever processor reads it.

`packed.reel` was packed by `packed.safetensors`; `packed-plain.reel` has the same ids bit by bit.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reeltok.tokens.reel import Reel, load_tokens

pytest.importorskip("constriction")
EARLIER = Path(__file__).parents[1] / "golden" / "earlier"
MODEL = EARLIER / "packed.safetensors"
READ = f"""
from reeltok.tokens.reel import load_tokens
ids = load_tokens({str(EARLIER / "packed.reel")!r}, packing={str(MODEL)!r}).ids
assert ids.equal(load_tokens({str(EARLIER / "packed-plain.reel")!r}).ids)
"""
PROCESSORS = {
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "compatible": {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "3"},
}


def test_earlier_packed_files_give_the_same_ids() -> None:
    with Reel(EARLIER / "packed.reel", packing=MODEL) as reel:
        assert (reel.packed, reel.damaged, reel.grid) == (True, 2, (20, 4, 6))
        assert reel.stored_bits < 0.5 * 20 * 24 * 10
        ids = reel.tokens().ids
    assert torch.equal(ids, load_tokens(EARLIER / "packed-plain.reel").ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_other_instructions_give_the_same_ids(name: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", READ],
        env=os.environ | PROCESSORS[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
