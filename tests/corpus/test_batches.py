"""A corpus read back: rows in batches, by ranks and workers, from where a run stopped."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus_clips import build, opener, write_clips
from torch.utils.data import DataLoader

from reeltok.corpus import (
    Batches,
    Bucket,
    Corpus,
    Shaping,
    WindowCoding,
    batches,
    plan_corpus,
    read,
    shard,
)
from reeltok.corpus.build import ShardFiles, write_sidecar
from reeltok.corpus.finish import finish_corpus
from reeltok.corpus.place import Place
from reeltok.corpus.plan import write_plan
from reeltok.corpus.row import Row, stack_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two buckets: 14 windows of 5 frames and 6 of 9."""
    base = tmp_path_factory.mktemp("corpus")
    clips = write_clips(base / "clips", (5, 9, 5, 20, 5, 5, 9, 9, 5, 5, 5, 18, 5, 5, 5, 5, 5, 5))
    buckets = (Bucket.of("32x32x5"), Bucket.of("32x32x9"))
    build(clips, base / "out", Shaping(buckets=buckets), clips_each=4)
    return base / "out"


def ids_of(stream: Any) -> list[list[str]]:
    return [[row.id for row in batch.rows] for batch in stream]


def test_batches_are_of_one_bucket_and_every_row_comes_once(made: Path) -> None:
    corpus = Corpus(made)
    buckets = corpus.manifest["buckets"]
    assert re.fullmatch(r"Corpus\(.*out: \d+ rows of ids of .+, 32x32x5, 32x32x9\)", repr(corpus))
    assert sum(buckets.values()) == len(corpus)
    stream = corpus.batches(2, seed=3)
    got = list(stream)
    assert len(got) == len(stream) == sum(count // 2 for count in buckets.values())
    for batch in got:
        assert {row.bucket for row in batch.rows} == {batch.bucket}
        assert batch.ids is not None
        assert torch.equal(batch.ids[1], batch.rows[1].ids)
    names = [row.id for batch in got for row in batch.rows]
    assert len(set(names)) == len(names)
    assert ids_of(corpus.batches(2, seed=3)) == ids_of(got) != ids_of(corpus.batches(2, seed=4))


def test_ranks_have_as_many_batches_and_share_none(made: Path) -> None:
    corpus = Corpus(made)
    whole = ids_of(corpus.batches(2))
    parts = [ids_of(corpus.batches(2, rank=rank, ranks=3)) for rank in range(3)]
    assert {len(part) for part in parts} == {len(whole) // 3}
    assert [parts[i % 3][i // 3] for i in range(len(whole) // 3 * 3)] == whole[
        : len(whole) // 3 * 3
    ]


def test_ranks_are_those_of_the_group_or_else_of_the_launcher(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = lambda **given: (lambda s: (s.rank, s.ranks))(Corpus(made).batches(2, **given))
    launched = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert place() == (1, 3)
    said = {"is_initialized": True, "get_rank": 3, "get_world_size": 4}
    for name, value in said.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert place() == (3, 4)
    assert place(rank=0, ranks=2) == (0, 2)


def test_workers_change_nothing(made: Path) -> None:
    corpus = Corpus(made)
    loader = DataLoader(corpus.batches(2), batch_size=None, num_workers=2)
    assert ids_of(loader) == ids_of(corpus.batches(2))


def test_a_stream_goes_on_where_it_stopped(made: Path) -> None:
    corpus = Corpus(made)
    whole = ids_of(corpus.batches(2, epochs=2))
    stream = corpus.batches(2, epochs=2)
    begun = iter(stream)
    first = [[row.id for row in next(begun).rows] for _ in range(3)]
    again = Batches(Corpus(made), 2, epochs=2)
    again.load_state_dict(stream.state_dict())
    assert first + ids_of(again) == whole
    again.skip_to(0, len(again) // 2 + 1)
    assert ids_of(again) == whole[len(again) // 2 + 1 :]
    with pytest.raises(ValueError, match="this stream has seed 5 and the state 0"):
        corpus.batches(2, seed=5).load_state_dict(stream.state_dict())
    with pytest.raises(ValueError, match=r"no bucket of .* fills 1 batches of 99 rows"):
        corpus.batches(99)


def test_a_state_is_of_the_same_rows_in_the_same_order(made: Path) -> None:
    stream = Corpus(made).batches(2, shuffle=False)
    next(iter(stream))
    state = stream.state_dict()
    with pytest.raises(ValueError, match="this stream has shuffle True and the state False"):
        Corpus(made).batches(2).load_state_dict(state)
    other = Corpus(made)
    other.manifest["files"][1]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="were made again since this state was saved"):
        other.batches(2, shuffle=False).load_state_dict(state)
    before = {name: state[name] for name in ("seed", "size", "ranks", "plan", "epoch", "batch")}
    again = other.batches(2, shuffle=False)
    again.load_state_dict(before)
    assert ids_of(again) == ids_of(Corpus(made).batches(2, shuffle=False))[1:]


def test_a_state_of_the_first_version_is_right_between_shuffled_epochs_alone(made: Path) -> None:
    stream = Corpus(made).batches(2)
    state = stream.state_dict()
    first = {name: state[name] for name in ("seed", "size", "ranks", "plan")}
    with pytest.raises(ValueError, match=r"begin that epoch anew, by skip_to\(1\)"):
        stream.load_state_dict({**first, "epoch": 1, "batch": 1})
    stream.load_state_dict({**first, "epoch": 1, "batch": 0})
    assert ids_of(stream) == ids_of(Corpus(made).batches(2, epochs=2))[len(stream) :]


def test_a_shuffled_epoch_reads_each_row_group_once_and_holds_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (shard, batches):
        monkeypatch.setattr(module, "GROUP_BYTES", 16_000)
    monkeypatch.setattr(read, "HELD_BYTES", 200_000)
    monkeypatch.setattr(batches, "MIXED_BYTES", 100_000)
    corpus = corpus_of_latents(tmp_path, 320)
    counted, held, whole = list[int](), 0, shard.FileReader.group
    count = lambda reader, number: counted.append(number) or whole(reader, number)
    monkeypatch.setattr(shard.FileReader, "group", count)
    names = list[str]()
    for batch in corpus.batches(4):
        names += [row.id for row in batch.rows]
        held = max(held, sum(table.nbytes for table in corpus._groups.values()))
    assert len(set(names)) == len(names) == 320
    assert len(counted) == len(corpus.groups(0)) == 40
    assert held <= 200_000
    places = [int(name) // 8 for name in names[:40]]
    assert len(set(places)) >= 4, "rows of several groups are mixed"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_pass_of_a_loader_is_the_next_epoch(made: Path, workers: int) -> None:
    corpus = Corpus(made)
    stream = corpus.batches(2, seed=1)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    epochs = [ids_of(loader) for _ in range(3)]
    together = ids_of(corpus.batches(2, seed=1, epochs=3))
    assert epochs == [together[n * len(stream) : (n + 1) * len(stream)] for n in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    next(iter(loader))  # a pass that is left early counts, too
    stream_at_five = corpus.batches(2, seed=1)
    stream_at_five.skip_to(4)
    assert ids_of(loader) == ids_of(stream_at_five) != []


def test_workers_that_stay_follow_a_jump(made: Path) -> None:
    stream = Corpus(made).batches(2)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    first, second = ids_of(loader), ids_of(loader)
    stream.skip_to(0)
    assert ids_of(loader) == first != second
    stream.skip_to(1, 3)
    assert ids_of(loader) == second[3:]


def test_a_stream_that_was_read_whole_does_not_begin_anew_from_its_state(made: Path) -> None:
    stream = Corpus(made).batches(2, epochs=2)
    begun = iter(stream)
    for _ in range(len(stream)):
        next(begun)
    again = Corpus(made).batches(2, epochs=2)
    again.load_state_dict(stream.state_dict())
    assert ids_of(again) == []
    again.skip_to(0, len(stream))
    assert ids_of(again) == []
    with pytest.raises(ValueError, match="1 epoch or more"):
        Corpus(made).batches(2, epochs=0)


def test_the_length_is_that_of_a_pass(made: Path) -> None:
    corpus = Corpus(made)
    stream = corpus.batches(2, epochs=2)
    loader = DataLoader(stream, batch_size=None)
    assert len(loader) == len(ids_of(loader)) == 2 * len(corpus.batches(2))
    endless = corpus.batches(2, epochs=None)
    with pytest.raises(TypeError, match="no end"):
        len(endless)
    begun = iter(DataLoader(endless, batch_size=None))
    assert len([next(begun) for _ in range(len(stream))]) == len(stream)
    endless.skip_to(0, len(stream))
    assert endless.epoch == 1


@pytest.mark.parametrize("size", [{}, {"batch_size": 4}])
def test_a_loader_that_would_make_batches_of_batches_is_told(made: Path, size: Any) -> None:
    with pytest.raises(ValueError, match="give the loader batch_size=None"):
        next(iter(DataLoader(Corpus(made).batches(2), **size)))


def test_buckets_smaller_than_a_batch_are_told(made: Path) -> None:
    corpus = Corpus(made)
    few = corpus.manifest["buckets"]["32x32x9"]
    with pytest.warns(UserWarning, match=rf"{few} of \d+ rows are in buckets of fewer than"):
        stream = corpus.batches(few + 1)
    assert {batch.bucket for batch in stream} == {"32x32x5"}


def test_the_map_style_reader_goes_through_a_loader(made: Path) -> None:
    corpus = Corpus(made)
    same = [i for i in range(len(corpus)) if corpus.bucket(i) == "32x32x5"]
    loader = DataLoader(torch.utils.data.Subset(corpus, same), batch_size=4, num_workers=1)
    batch = next(iter(loader))
    assert batch.ids.shape == (4, *corpus[same[0]].ids.shape)
    assert [row.id for row in batch.rows] == [corpus[i].id for i in same[:4]]
    with pytest.raises(ValueError, match="rows of one batch have one bucket"):
        next(iter(DataLoader(corpus, batch_size=len(corpus))))


def corpus_of_latents(place: Path, rows: int) -> Corpus:
    """A corpus of rows of 2 kB that nothing was encoded for."""
    clips, held = write_clips(place / "clips", (5,)), opener(continuous=True)
    plan = plan_corpus(clips, held, shaping=Shaping(frames=5), coding=WindowCoding())
    out = Place(place / "out")
    write_plan(plan, out)
    files = ShardFiles(plan, 0, out)
    size = {"frames": 5, "height": 32, "width": 32, "source_height": 32, "source_width": 40}
    for number in range(rows):
        latents = torch.full((4, 4, 8, 8), number, dtype=torch.float16)
        files.add(Row(id=f"{number}", source="a", latents=latents, **size))
    write_sidecar(files.finish((), clips=1), out)
    finish_corpus(out)
    return Corpus(out)


class Counting(pickle.Pickler):
    """Counts the tensors that are sent: with workers each is an open file."""

    sent = 0

    def reducer_override(self, value: Any) -> Any:
        self.sent += isinstance(value, torch.Tensor)
        return NotImplemented


def rows_with_everything() -> list[Row]:
    size = {"frames": 5, "height": 32, "width": 32, "source_height": 32, "source_width": 40}
    return [
        Row(
            id=f"{n}",
            source="a",
            latents=torch.randn(4, 2, 2, 2),
            log_variance=torch.randn(4, 2, 2, 2),
            text=None if n == 1 else torch.randn(n + 1, 6),
            extras={"edge": torch.randn(3), f"only-{n}": torch.arange(n)},
            beside={"labels": torch.tensor(n)},
            **size,
        )
        for n in range(3)
    ]


def test_a_batch_that_is_sent_holds_few_tensors_and_its_rows_whole() -> None:
    rows = rows_with_everything()
    batch = stack_rows(rows)
    assert batch.latents is not None
    batch.latents[2] += 1  # the row keeps its own
    file = io.BytesIO()
    pickler = Counting(file)
    pickler.dump(batch)
    assert pickler.sent == 4, "latents, their variances, and the others of two types"
    got = pickle.loads(file.getvalue())
    assert torch.equal(got.latents, batch.latents)
    assert torch.equal(got.log_variance, batch.log_variance)
    for there, row in zip(got.rows, rows, strict=True):
        assert there.id == row.id
        assert there.ids is None
        for name in ("latents", "log_variance", "text"):
            mine, own = getattr(there, name), getattr(row, name)
            assert (mine is None and own is None) or torch.equal(mine, own)
        for name in ("extras", "beside"):
            mine, own = getattr(there, name), getattr(row, name)
            assert {*mine} == {*own}
            assert all(torch.equal(mine[key], own[key]) for key in own)
    assert got.rows[0].latents.data_ptr() == got.latents.data_ptr()


@pytest.mark.slow
def test_datasets_reads_the_shards(made: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets (extra readers)")
    files = sorted(str(file) for file in made.glob("shard-*.parquet"))
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(made.parent / "cache")
    )
    assert found["id"][:] == [row.id for row in Corpus(made)]
    assert found[0]["ids_shape"] == [*Corpus(made)[0].ids.shape]
