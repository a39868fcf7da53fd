"""Exports under the readers of those who train on them, where these are installed (extra readers).

tests/corpus/test_export_formats.py reads the same files by their layouts alone, by default.
"""

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_clips import build, opener, write_clips

from reeltok.corpus import Corpus, Shaping
from reeltok.corpus.formats.energon import PREPARE
from reeltok.corpus.formats.export import export_corpus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpora")
    write_clips(place / "clips", (9, 14, 5))
    text = place / "text"
    text.mkdir()
    np.save(text / "0.npy", np.arange(24, dtype=np.float32).reshape(3, 8))
    shaping = Shaping(frames=5, stride=5)
    build(place / "clips", place / "latents", shaping, held=opener(continuous=True), texts=text)
    build(place / "clips", place / "ids", shaping)
    return place


def test_megatron_core_reads_the_ids_of_each_clip(made: Path, tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="extra readers")
    export_corpus(made / "ids", tmp_path / "out", to="megatron")
    rows = list(Corpus(made / "ids"))
    data = indexed.IndexedDataset(str(tmp_path / "out" / "tokens"))
    assert len(data) == len(rows)
    assert data.document_indices.tolist() == list(range(len(rows) + 1))
    for number, row in enumerate(rows):
        assert data[number].tolist() == row.ids.flatten().tolist()
        assert data.get(number, offset=3, length=4).tolist() == row.ids.flatten()[3:7].tolist()


def test_energon_prepares_the_folder_and_reads_samples(made: Path, tmp_path: Path) -> None:
    energon = pytest.importorskip("megatron.energon", reason="needs megatron-energon (readers)")
    out = tmp_path / "out"
    export_corpus(made / "latents", out, to="energon", dtype=torch.float32)
    words = PREPARE.format(folder=out).split()
    run = subprocess.run(
        [str(Path(sys.executable).parent / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (out / ".nv-meta" / "dataset.yaml").is_file()

    @energon.stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        held = {"latents": sample["pth"], "text": sample["pickle"], "about": sample["json"]}
        return {**energon.basic_sample_keys(sample), **held}

    class Encoder(energon.DefaultTaskEncoder):
        cookers = (energon.Cooker(cook),)

    data = energon.get_train_dataset(
        out,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
    )
    corpus = Corpus(made / "latents")
    rows = {row.id: row for row in corpus}
    samples = list(islice(energon.get_loader(data), len(rows)))
    assert {sample["about"]["id"] for sample in samples} == {*rows}
    found = corpus.statistics
    mean, std = (torch.tensor(found[name]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    for sample in samples:
        row = rows[sample["about"]["id"]]
        want = (row.latents.float() - mean) / std
        assert torch.allclose(sample["latents"], want, atol=1e-5)
        assert sample["text"].shape == ((1, 8) if row.text is None else (3, 8))


def test_datasets_reads_the_parquet_files_of_fastvideo(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets (extra readers)")
    export_corpus(made / "latents", tmp_path / "out", to="fastvideo")
    files = [str(path) for path in (tmp_path / "out").rglob("*.parquet")]
    cache = str(tmp_path / "cache")
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    rows = list(Corpus(made / "latents"))
    assert data["id"][:] == [row.id for row in rows]
    for held, row in zip(data, rows, strict=True):
        flat = np.frombuffer(held["vae_latent_bytes"], np.float32)
        assert np.array_equal(flat.reshape(held["vae_latent_shape"]), row.latents.float().numpy())
