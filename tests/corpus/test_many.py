"""A hundred thousand rows: planned, described, read, exported."""

import os
from pathlib import Path

import pytest

from reeltok.cli.main import main
from reeltok.corpus import Corpus
from reeltok.corpus.formats.export import export_corpus
from reeltok.corpus.place import Place

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CORPUS_ROWS rows of random ids (default 100,000), as bench/corpus.py makes them."""
    monkeypatch.syspath_prepend(str(BENCH))
    from importlib import import_module

    rows, out = int(os.environ.get("CORPUS_ROWS", "100000")), tmp_path / "rows"
    import_module("corpus").make_rows(Place(out), rows, "default")
    assert main(["corpus", "info", str(out)]) == 0
    assert main(["corpus", "verify", str(out), "--samples", "1"]) == 0
    corpus = Corpus(out)
    assert sum(1 for _ in corpus) == len(corpus) == rows
    assert corpus[rows // 2].id == f"{rows // 2:07d}.mp4#0000"
    assert len({row.id for batch in corpus.batches(8) for row in batch.rows}) == rows // 8 * 8
    made = export_corpus(out, tmp_path / "titan", to="torchtitan")
    assert made.rows == rows
