"""Checkpoints: whole or not there; damage is named with the last good one; a kill loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from reeltok.train.checkpoint import (
    Saver,
    allocate_states,
    find_checkpoints,
    held_alone,
    load_tensors,
    named_tensors,
    require_space,
    verify_checkpoint,
)
from reeltok.train.logbook import read_lines


def tensors(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"model.weight": torch.full((4, 3), value), "ema.weight": torch.full((4, 3), -value)}


@pytest.mark.parametrize("background", [False, True])
def test_saved_is_loaded_and_old_ones_go(tmp_path: Path, background: bool) -> None:
    saver = Saver(tmp_path, keep=2, background=background)
    for step in (1, 2, 3):
        saver.save(step, tensors(step), {"best": 1.5})
    saver.finish()
    found = find_checkpoints(tmp_path)
    assert [c.step for c in found] == [2, 3]
    into = tensors()
    assert load_tensors(found[-1], into) == {"step": 3, "best": 1.5}
    assert into["model.weight"].eq(3).all()
    assert into["ema.weight"].eq(-3).all()


def test_background_save_keeps_what_it_was_given(tmp_path: Path) -> None:
    saver, given = Saver(tmp_path, background=True), tensors(1.0)
    saver.save(1, given, {})
    given["model.weight"].fill_(9.0)
    saver.finish()
    load_tensors(find_checkpoints(tmp_path)[0], given)
    assert given["model.weight"].eq(1).all()


def once(real: Callable[..., Any], when: Callable[[Any], bool]) -> Callable[..., Any]:
    """A function whose first call with such a first argument is interrupted."""
    calls: list[Any] = []

    def call(*args: Any, **options: Any) -> Any:
        if when(args[0]):
            calls.append(args)
            if len(calls) == 1:
                raise KeyboardInterrupt
        return real(*args, **options)

    return call


INTERRUPTED = {
    "before": (dcp, "save"),
    "copied": (dcp, "async_save"),
    "written": (FileSystemWriter, "write_data"),
    "ended": (FileSystemWriter, "finish"),
    "named": (Path, "rename"),  # which torch calls too, for a file of its own
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_an_interrupted_save_leaves_whole_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    saver = Saver(tmp_path, keep=1, background=where == "copied")
    saver.save(1, tensors(1), {})
    saver.finish()
    place, name = INTERRUPTED[where]
    is_meant = lambda first: where != "named" or first.name == "step-00000002.part"
    with monkeypatch.context() as patch:
        patch.setattr(place, name, once(getattr(place, name), is_meant))
        with pytest.raises(KeyboardInterrupt):
            saver.save(2, tensors(2), {})
    saver.finish()  # as a run does, however it ends
    (left,) = find_checkpoints(tmp_path)
    assert left.step == (2 if where == "named" else 1)  # what is complete gets its name after all
    verify_checkpoint(left)
    assert os.listdir(tmp_path / "checkpoints") == [left.folder.name]
    saver.save(3, tensors(3), {})
    saver.finish()
    assert [found.step for found in find_checkpoints(tmp_path)] == [3]


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    with held_alone(tmp_path, 0):
        with (
            pytest.raises(BlockingIOError, match=r"another process trains in .*: wait for it, or"),
            held_alone(tmp_path, 0),
        ):
            pass
        with held_alone(tmp_path, 0, first=False):  # the others of the same run
            Saver(tmp_path).save(5, tensors(), {})
    with (
        pytest.raises(FileExistsError, match=r"trained in .* up to step 5 meanwhile: resume it"),
        held_alone(tmp_path, 0),
    ):
        pass
    with held_alone(tmp_path, 5):
        pass


def test_damage_is_refused_with_the_last_good_one(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=3)
    for step in (1, 2, 3):
        saver.save(step, tensors(step), {})
    last = find_checkpoints(tmp_path)[-1]
    file = next(last.folder.glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"altered; delete that folder .* step-00000002$"):
        verify_checkpoint(last)
    file.unlink()
    with pytest.raises(ValueError, match=r"is missing; .*step-00000002"):
        load_tensors(last, tensors())


def test_another_model_is_named(tmp_path: Path) -> None:
    Saver(tmp_path).save(1, tensors(), {})
    found = find_checkpoints(tmp_path)[0]
    other = {"model.weight": torch.zeros(5, 3)}
    with pytest.raises(ValueError, match=r"another model: model.weight has shape \(5, 3\) here"):
        load_tensors(found, other)
    with pytest.raises(ValueError, match="no entry there"):
        load_tensors(found, {"model.bias": torch.zeros(3)})


def test_a_model_of_fewer_parts_is_another(tmp_path: Path) -> None:
    held = {name: torch.zeros(3) for name in ("model.0", "model.1", "model.log_variance", "ema.1")}
    Saver(tmp_path).save(1, held, {})
    found = find_checkpoints(tmp_path)[0]
    with pytest.raises(ValueError, match=r"another model: it has model.1, which this one lacks"):
        load_tensors(found, {"model.0": torch.zeros(3)})
    load_tensors(found, {name: held[name] for name in ("model.0", "model.1")})


def test_optimizer_states_come_back(tmp_path: Path) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    module, optimizer = made()
    for _ in range(2):
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    held = named_tensors({"model": module}, {"model": [optimizer]})
    Saver(tmp_path).save(2, held, {})
    fresh, empty = made()
    allocate_states(find_checkpoints(tmp_path)[0], {"model": fresh}, {"model": [empty]})
    into = named_tensors({"model": fresh}, {"model": [empty]})
    assert into.keys() == held.keys()
    load_tensors(find_checkpoints(tmp_path)[0], into)
    assert all(torch.equal(into[key], held[key]) for key in held)
    assert empty.state[fresh.weight]["step"].item() == 2


def test_the_step_of_a_fused_optimizer_lies_beside_its_weight(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    Saver(tmp_path).save(1, named_tensors({"model": module}, {"model": [optimizer]}), {})
    for fused, place in ((True, "meta"), (False, "cpu")):
        away = nn.Linear(3, 2, device="meta")
        empty = torch.optim.AdamW(away.parameters())
        empty.defaults["fused"] = fused
        allocate_states(find_checkpoints(tmp_path)[0], {"model": away}, {"model": [empty]})
        assert empty.state[away.weight]["step"].device.type == place
        assert empty.state[away.weight]["exp_avg"].device.type == "meta"


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ema.weight", "loop.ema"),
        ("model.log_variance", "losses.log_variance"),
        ("discriminator.0.weight", "losses.discriminator"),
    ],
)
def test_a_setting_that_a_resume_adds_is_named(tmp_path: Path, name: str, setting: str) -> None:
    Saver(tmp_path).save(1, {"model.weight": torch.zeros(3)}, {})
    found = find_checkpoints(tmp_path)[0]
    with pytest.raises(ValueError, match=f"has no {name}, which this resume adds by {setting}"):
        load_tensors(found, {"model.weight": torch.zeros(3), name: torch.zeros(3)})


def test_no_space_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"0\.0 MB free, two checkpoints take"):
        require_space(tmp_path, tensors())
    with pytest.raises(OSError, match=r"one more checkpoint takes .*: free some$"):
        require_space(tmp_path, tensors(), resumed=True)


def test_a_run_that_goes_on_needs_the_space_of_one_more_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(tensor.nbytes for tensor in tensors().values())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": size}))
    require_space(tmp_path, tensors(), resumed=True)
    with pytest.raises(OSError, match="two checkpoints take"):
        require_space(tmp_path, tensors())


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from reeltok.train.checkpoint import Saver
saver = Saver(Path(sys.argv[1]))
saver.save(1, {"model.weight": torch.ones(1000)}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    saver.save(2, {"model.weight": torch.ones(100_000)}, {})
except OSError as error:
    print(error)
"""


def test_failed_write_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path)
    saver.save(1, tensors(1.0), {})

    def fail(tensors: dict, checkpoint_id: Path, **options: object) -> None:
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.save", fail)
    with pytest.raises(OSError, match=r"No space left.*the last good one is .*step-00000001"):
        saver.save(2, tensors(2.0), {})
    assert not list((tmp_path / "checkpoints").glob("*.part"))
    verify_checkpoint(find_checkpoints(tmp_path)[-1])


@pytest.mark.slow
def test_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing fails in the middle."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "cannot write checkpoint" in said
    assert "the last good one is" in said
    assert said.count("\n") == 1
    assert [c.step for c in find_checkpoints(tmp_path)] == [1]
    assert not list((tmp_path / "checkpoints").glob("*.part"))
    into = {"model.weight": torch.zeros(1000)}
    load_tensors(find_checkpoints(tmp_path)[0], into)
    assert into["model.weight"].eq(1).all()


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_losses(clips: Path, tmp_path: Path) -> None:
    """SIGKILL at a random step, twice; the losses and the model are those of a run left alone."""
    program = [sys.executable, str(Path(__file__).parent / "small_run.py"), str(clips)]
    discriminator = 'losses.discriminator={"width": 8, "layers": 2, "first": 3, "lecam": 0.1}'
    changes = ["loop.save_every=3", "loop.validate_every=100", discriminator]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path, *more: str) -> subprocess.Popen:
        command = [*program, str(out), *changes, *more]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(600) == 0
    killed, resume = tmp_path / "killed", ()
    for stop_at in (5, 11):
        child = start(killed, *resume)
        while len([x for x in read_lines(killed / "log.jsonl") if "loss" in x]) < stop_at:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        resume = ("--resume",)
    assert start(killed, *resume).wait(600) == 0
    whole, again = (
        [
            {k: v for k, v in line.items() if k not in ("time", "seconds", "waited")}
            for line in lines
            if "train_size" not in line  # said anew by each resume
        ]
        for lines in (read_lines(run / "log.jsonl") for run in (tmp_path / "whole", killed))
    )
    assert again == whole
    weights = [run / "model" / "model.safetensors" for run in (tmp_path / "whole", killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
