"""Run folders of others: nothing in them runs, and whatever is damaged is one named error."""

import builtins
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Line, feed
from torch.distributed.checkpoint import metadata as written

from reeltok.files.hashes import hash_files
from reeltok.train import change, train
from reeltok.train.checkpoint import Saver, find_checkpoints, load_tensors
from reeltok.train.logbook import draw_runs
from reeltok.train.loop import run_task
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.run import LoopConfig
from reeltok.train.stored import read_metadata

LOOP = LoopConfig(schedule=ScheduleConfig(steps=3), precision="fp32", log_every=1)
MORE = LoopConfig(schedule=ScheduleConfig(steps=4), precision="fp32", log_every=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The last checkpoint of a run of three steps."""
    torch.manual_seed(0)
    run_task(Line(), feed, LOOP, out=tmp_path / "run")
    return find_checkpoints(tmp_path / "run")[-1].folder


def sign(folder: Path) -> None:
    """Sums that fit whatever the files hold, as an attacker would write them."""
    names = [file.name for file in folder.iterdir() if file.name != "sums.json"]
    (folder / "sums.json").write_text(json.dumps({n: hash_files(folder / n) for n in names}))


def resume(folder: Path) -> None:
    run_task(Line(), feed, MORE, out=folder.parent.parent, resume=True)


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *values: Any) -> None:
        self.function, self.values = function, values

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.values


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda mark: pickle.dumps(Call(os.system, f"touch {mark}")),
    "eval": lambda mark: pickle.dumps(Call(builtins.eval, touch(mark))),
    "exec, protocol 0": lambda mark: pickle.dumps(Call(builtins.exec, touch(mark)), protocol=0),
    "getattr": lambda mark: (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch "
        + str(mark).encode()
        + b"'\ntR."
    ),
    "a dotted name": lambda mark: (
        b"\x80\x04\x8c\x26torch.distributed.checkpoint.filesystem\x8c\x09os.system\x93"
        b"\x8c" + bytes([len(f"touch {mark}")]) + f"touch {mark}".encode() + b"\x85R."
    ),
    "a module of an allowed name": lambda mark: (
        b"ctorch.distributed.checkpoint.metadata\nos\n(S'x'\nt."
    ),
    "torch's own loader": lambda mark: pickle.dumps(Call(torch.load, str(mark))),
    "a class of torch": lambda mark: b"\x80\x02ctorch\nTensor\n)\x81.",
    "a class that is changed": lambda mark: (
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n"
        b"}X\x08\x00\x00\x00__init__ctorch\nSize\nsb."
    ),
    "a persistent name": lambda mark: b"Pname\n.",
    "an extension": lambda mark: b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_run_of_others_runs(folder: Path, tmp_path: Path, attack: str) -> None:
    mark, before = tmp_path / "ran", written.Metadata.__init__
    (folder / ".metadata").write_bytes(ATTACKS[attack](mark))
    sign(folder)
    with pytest.raises(ValueError, match=r"\.metadata is damaged or was made by others"):
        resume(folder)
    assert not mark.exists()
    assert written.Metadata.__init__ is before


def test_an_attack_inside_a_good_record_does_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = read_metadata(folder)
    found.planner_data = Call(os.system, f"touch {mark}")
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    sign(folder)
    with pytest.raises(ValueError, match=r"names (posix|nt)\.system, which no checkpoint needs"):
        resume(folder)
    assert not mark.exists()


def test_tensors_of_others_are_not_unpickled(folder: Path, tmp_path: Path) -> None:
    """A pickle in place of the tensors, and one that DCP would take for something else."""
    mark = tmp_path / "ran"
    data = next(folder.glob("*.distcp"))
    size = data.stat().st_size
    data.write_bytes(pickle.dumps(Call(os.system, f"touch {mark}")).ljust(size, b"."))
    sign(folder)
    with pytest.raises(ValueError, match="is damaged"):
        resume(folder)
    found = read_metadata(folder)
    key = next(iter(found.state_dict_metadata))
    found.state_dict_metadata[key] = written.BytesStorageMetadata()
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    sign(folder)
    with pytest.raises(ValueError, match=r"names torch.*BytesStorageMetadata"):
        resume(folder)
    assert not mark.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_what_training_writes_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.ones(2, 3, 4, 5, dtype=dtype), "b": torch.ones((), dtype=dtype)}
    tensors["a"] = tensors["a"].contiguous(memory_format=torch.channels_last)
    Saver(tmp_path).save(1, tensors, {})
    into = {name: torch.zeros_like(value) for name, value in tensors.items()}
    load_tensors(find_checkpoints(tmp_path)[0], into)
    assert all(value.eq(1).all() for value in into.values())


# Damage with sums that fit it.


def edit(folder: Path, change: Callable[[written.Metadata], object]) -> None:
    found = read_metadata(folder)
    change(found)
    (folder / ".metadata").write_bytes(pickle.dumps(found))


def edit_places(folder: Path, **values: Any) -> None:
    def change(found: written.Metadata) -> None:
        for info in found.storage_data.values():
            vars(info).update(values)

    edit(folder, change)


def edit_sizes(folder: Path, size: tuple[int, ...]) -> None:
    def change(found: written.Metadata) -> None:
        for name, tensor in found.state_dict_metadata.items():
            if "@" in name:
                tensor.size = torch.Size(size)
                tensor.chunks = [written.ChunkStorageMetadata(torch.Size(size), torch.Size(size))]

    edit(folder, change)


def numbers(folder: Path, **values: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty metadata": lambda f: (f / ".metadata").write_bytes(b""),
    "cut metadata": lambda f: (f / ".metadata").write_bytes((f / ".metadata").read_bytes()[:-40]),
    "another object": lambda f: (f / ".metadata").write_bytes(pickle.dumps([1, 2])),
    "a number as names": lambda f: edit(f, lambda m: setattr(m, "state_dict_metadata", 5)),
    "no places": lambda f: edit(f, lambda m: m.storage_data.clear()),
    "places elsewhere": lambda f: edit_places(f, relative_path="../../../../etc/passwd"),
    "places beyond": lambda f: edit_places(f, offset=10**12),
    "places before": lambda f: edit_places(f, offset=-5),
    "places of no file": lambda f: edit_places(f, relative_path="__9_9.distcp"),
    "compressed": lambda f: edit_places(f, transform_descriptors=["zstd"]),
    "states of a huge size": lambda f: edit_sizes(f, (10**7, 10**7)),
    "states of a negative size": lambda f: edit_sizes(f, (-1,)),
    "states without a size": lambda f: edit_sizes(f, ()),
    "no state": lambda f: edit(f, lambda m: m.state_dict_metadata.pop("model@weight@exp_avg")),
    "no tensors": lambda f: next(f.glob("*.distcp")).write_bytes(b""),
    "zeros for tensors": lambda f: next(f.glob("*.distcp")).write_bytes(bytes(9999)),
    "no run.json": lambda f: (f / "run.json").unlink(),
    "a list in run.json": lambda f: (f / "run.json").write_text("[]"),
    "latin in run.json": lambda f: (f / "run.json").write_bytes(b'{"step": "\xe9"}'),
    "a cut run.json": lambda f: (f / "run.json").write_text('{"step": 3, "be'),
    "no step": lambda f: (f / "run.json").write_text("{}"),
    "another step": lambda f: numbers(f, step=7),
    "a text for a step": lambda f: numbers(f, step="three"),
    "a text for the best": lambda f: numbers(f, best="high"),
    "a list for a scaler": lambda f: numbers(f, scaler=[1]),
    "half a scaler": lambda f: numbers(f, scaler={"scale": 1.0}),
    "an odd schedule": lambda f: numbers(f, schedule={"plan": {"steps": -1}}),
    "a number for a schedule": lambda f: numbers(f, schedule=5),
}
UNSIGNED: dict[str, Callable[[Path], object]] = {
    "a list of sums": lambda f: (f / "sums.json").write_text("[1]"),
    "latin in the sums": lambda f: (f / "sums.json").write_bytes(b'{"\xe9": 1}'),
    "cut sums": lambda f: (f / "sums.json").write_text('{"run.json": "ab'),
    "no sums": lambda f: (f / "sums.json").write_text("{}"),
    "sums of other files": lambda f: (f / "sums.json").write_text(
        json.dumps({"/etc/passwd": "0", **json.loads((f / "sums.json").read_text())})
    ),
    "a number as sum": lambda f: (f / "sums.json").write_text(
        json.dumps(json.loads((f / "sums.json").read_text()) | {"run.json": 5})
    ),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *UNSIGNED])
def test_a_damaged_checkpoint_is_one_error(folder: Path, damage: str) -> None:
    (DAMAGE | UNSIGNED)[damage](folder)
    if damage in DAMAGE:
        sign(folder)
    loop = LoopConfig(schedule=MORE.schedule, precision="fp16" if "scaler" in damage else "fp32")
    with pytest.raises(ValueError, match=r"step-00000003") as error:
        run_task(Line(), feed, loop, out=folder.parent.parent, resume=True)
    assert "\n" not in str(error.value)


def test_another_optimizer_is_said(folder: Path) -> None:
    loop = LoopConfig(
        schedule=MORE.schedule, precision="fp32", optimizer=OptimizerConfig(kind="muon")
    )
    with pytest.raises(ValueError, match=r"loop.optimizer.kind that the run began with"):
        run_task(Line(), feed, loop, out=folder.parent.parent, resume=True)


def test_what_is_no_checkpoint_is_passed_over(folder: Path) -> None:
    for name in ("step-00000009", "step-x", "step-", "step-00000008.part"):
        (folder.parent / name).write_text("a file")
    (folder.parent / "step-00000007").mkdir()
    assert [c.step for c in find_checkpoints(folder.parent.parent)] == [3]
    shutil.rmtree(folder.parent)
    folder.parent.write_text("a file")
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume"):
        resume(folder)


BAD = {"list": b"[1]", "text": b'"run"', "latin": b'{"name": "\xe9"}', "cut": b'{"name": "sm'}


@pytest.mark.parametrize("content", BAD)
def test_damaged_recipes_and_logs_are_one_error(tmp_path: Path, content: str) -> None:
    from reeltok.recipes import find_recipe

    for name in ("recipe.json", "log.jsonl"):
        (tmp_path / name).write_bytes(BAD[content] + b"\n")
    for read in (find_recipe, find_recipe):
        with pytest.raises(ValueError, match=r"recipe\.json"):
            read(tmp_path)
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        draw_runs(tmp_path)


def test_a_damaged_log_is_named_on_resume(clips: Path, tmp_path: Path) -> None:
    from small_run import small_recipe

    one = change(small_recipe(), {"loop.schedule.steps": "1"})
    train(one, data=clips, out=tmp_path / "run", device="cpu")
    (tmp_path / "run" / "log.jsonl").write_bytes(b'{"step": 1}\n[]\n{"step": 2}\n')
    two = change(one, {"loop.schedule.steps": "2"})
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl is damaged"):
        train(two, data=clips, out=tmp_path / "run", resume=True, device="cpu")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05G\x00\x00.",  # half a float
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # a terabyte, without its bytes
        b"\x80\x05\x8c\x05\x1b[31m\x94.",
    ],
)
def test_odd_pickles_are_one_line(folder: Path, data: bytes) -> None:
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(ValueError, match="damaged or was made by others") as caught:
        read_metadata(folder)
    assert str(caught.value).isprintable()
