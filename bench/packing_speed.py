"""How small does packing make ids, and how fast is it?

    python bench/packing_speed.py [MODEL ...] [--data DATA] [--out FILE.json]

Encodes every clip that the protocol shared-eval makes of DATA (by default the evaluation set in
REELTOK_SHARED, default ../shared), packs its ids by the packing model beside the weights of MODEL
(by default `default`), and unpacks them. Speeds are thousand tokens for each second of processor
time, of one thread; the peer in the same run is lzma (preset 9) on ids of 16 bits.
"""

import argparse
import json
import lzma
import os
import time
from pathlib import Path

import torch
from machine import describe

from reeltok import zoo
from reeltok.evaluate.clips import clips
from reeltok.evaluate.protocols import find_protocol
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens.packing.coder import pack_segment, unpack_segment


def measure(name: str, data: Path) -> dict[str, float | int | str]:
    """Bits a token and speeds of one tokenizer over the clips."""
    tokenizer = zoo.load(name)
    model, bits = packing_for(tokenizer), tokenizer.spec.bits
    tokens = packed = peer = seconds = again = 0.0
    least, most = 1e9, 0.0
    for clip in clips(find_protocol("shared-eval"), data):
        ids = tokenizer.encode(clip.video.tensor()).ids
        assert ids is not None, f"{name} has no ids"
        ids = ids.movedim(1, 0)
        parts = ids.split(16)
        began = time.process_time()
        coded = [pack_segment(part, model, bits) for part in parts]
        done = time.process_time()
        for part, bytes_ in zip(parts, coded, strict=True):
            assert torch.equal(unpack_segment(bytes_, part.shape, model, bits), part)
        again += time.process_time() - done
        seconds += done - began
        size = sum(map(len, coded))
        tokens += ids.numel()
        packed += size
        peer += len(lzma.compress(ids.to(torch.int32).numpy().astype("<u2").tobytes(), preset=9))
        least, most = min(least, 8 * size / ids.numel()), max(most, 8 * size / ids.numel())
    return {
        "model": name,
        "packing": model.hash[:12],
        "tokens": int(tokens),
        "nominal_bits": bits,
        "bits": round(8 * packed / tokens, 3),
        "smaller": round(1 - 8 * packed / tokens / bits, 4),
        "least_and_most": f"{least:.2f} {most:.2f}",
        "lzma_bits": round(8 * peer / tokens, 3),
        "pack_ktokens_a_second": round(tokens / seconds / 1000, 1),
        "unpack_ktokens_a_second": round(tokens / again / 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["default"])
    shared = Path(os.environ.get("REELTOK_SHARED", "../shared"))
    parser.add_argument("--data", type=Path, default=shared / "data" / "eval")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {"machine": describe(), "results": [measure(m, given.data) for m in given.models]}
    text = json.dumps(found, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
