"""The loop: golden losses, exact resume, a guard against NaN, signals, frozen parts."""

import errno
import json
import os
import shutil
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from small_run import small_recipe
from torch import nn

from reeltok.train.build import build_model
from reeltok.train.checkpoint import find_checkpoints, held_alone
from reeltok.train.launch import train
from reeltok.train.logbook import read_lines
from reeltok.train.loop import divisors, last_checkpoint, run_task, train_step
from reeltok.train.losses import Losses
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.recipes import change
from reeltok.train.run import LoopConfig, Run

GOLDEN = Path(__file__).parent.parent / "golden" / "train_20_steps.json"


def losses_of(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_lines(out / "log.jsonl") if "loss" in line}


def test_a_run_killed_before_its_first_checkpoint_begins_anew(clips: Path, tmp_path: Path) -> None:
    short = change(small_recipe(), {"loop.schedule.steps": "3"})
    train(short, data=clips, out=tmp_path / "whole", device="cpu")
    out = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", out, ignore=shutil.ignore_patterns("step-*", "model"))
    with pytest.warns(UserWarning, match="killed has no checkpoint yet: it begins anew"):
        train(short, data=clips, out=out, resume=True, device="cpu")
    assert losses_of(out) == losses_of(tmp_path / "whole")
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume"):
        train(short, data=clips, out=tmp_path / "nowhere", resume=True, device="cpu")
    shutil.rmtree(out / "checkpoints")
    before = (out / "log.jsonl").read_text()
    with pytest.raises(FileNotFoundError, match="though the run has written one before"):
        train(short, data=clips, out=out, resume=True, device="cpu")
    assert (out / "log.jsonl").read_text() == before
    (out / "checkpoints" / "step-00000003.part").mkdir(parents=True)  # killed as it wrote the first
    assert last_checkpoint(out) is None


def test_twenty_steps_are_golden(clips: Path, tmp_path: Path) -> None:
    # AdamW and noise in place of rounding: Muon orthogonalizes in bfloat16, which every kind of
    # processor rounds its own way, and a code at the edge of its step would amplify that.
    smooth = change(small_recipe(), {"settings.quantizer.rounding_from": "20"})
    plain = replace(smooth.loop, optimizer=OptimizerConfig(kind="adamw", lr=4e-3))
    train(replace(smooth, loop=plain), data=clips, out=tmp_path / "run", device="cpu")
    found = list(losses_of(tmp_path / "run").values())
    if os.environ.get("REELTOK_GOLDEN"):
        GOLDEN.write_text(json.dumps({"loss": found}, indent=1) + "\n")
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["loss"], rel=1e-3)
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    assert sum(found[-5:]) < 0.9 * sum(found[:5])


class Line:
    """The smallest task: a line through noise; `poison` steps give NaN."""

    def __init__(self, poison: range = range(0)) -> None:
        self.model, self.poison = nn.Linear(3, 1), poison

    def parameters(self) -> nn.Module:
        return self.model

    def loss(self, batch: torch.Tensor, step: int, generator: torch.Generator) -> Losses:
        noise = torch.randn(batch.shape[0], 1, generator=generator)
        error = (self.model(batch) - batch.sum(1, keepdim=True) + 0.1 * noise).square().mean()
        return Losses(error * (float("nan") if step in self.poison else 1.0))

    def validate(self, step: int) -> dict[str, float]:
        return {}


def feed(step: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def settings(**changes) -> LoopConfig:
    plain = LoopConfig(
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(steps=8),
        precision="fp32",
        log_every=1,
    )
    return replace(plain, **changes)


def test_steps_with_nan_are_skipped_and_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = run_task(Line(range(3, 5)), feed, settings(), out=tmp_path)
    assert (run.skipped, run.step) == (2, 8)
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_nan_past_the_limit_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"not finite for 3 steps running.*lower loop.optimizer.lr"
    ):
        run_task(Line(range(2, 9)), feed, settings(bad_steps=3), out=tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_way_out_of_nan_is_one_that_there_is(tmp_path: Path, precision: str) -> None:
    config = settings(bad_steps=2, precision=precision)
    with pytest.raises(ValueError, match="resume from the last checkpoint") as error:
        run_task(Line(range(9)), feed, config, out=tmp_path)
    assert ("loop.precision=fp32" in str(error.value)) == (precision == "bf16")
    assert "discriminator" not in str(error.value)


def test_a_score_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    class Odd(Line):
        def validate(self, step: int) -> dict[str, float]:
            return {"psnr": float("nan") if step == 2 else float(step)}

    run = run_task(Odd(), feed, settings(validate_every=2), out=tmp_path)
    assert run.best == 8.0


@dataclass
class Told:
    counts: dict[str, int] = field(default_factory=dict)
    judged: str | None = None


class Scored(Line):
    def validate(self, step: int) -> dict[str, float]:
        return {"psnr": 30.0 + step, "lpips": 1.0 - 0.1 * step}


def test_a_best_score_that_there_is_not_is_said(tmp_path: Path) -> None:
    config = settings(best="pnsr", validate_every=4)
    with pytest.warns(UserWarning, match=r"loop.best=pnsr is no score .* did you mean 'psnr'\?"):
        run = run_task(Scored(), feed, config, out=tmp_path)
    assert run.best is None


def test_a_resume_with_another_best_begins_it_anew(tmp_path: Path) -> None:
    short = settings(validate_every=2, schedule=ScheduleConfig(steps=4))
    assert run_task(Scored(), feed, short, out=tmp_path).best == 34
    run = Run(Scored(), settings(best="-lpips"))
    run.load(last_checkpoint(tmp_path))
    assert run.best is None
    run = Run(Scored(), settings())
    run.load(last_checkpoint(tmp_path))
    assert run.best == 34


def test_a_resume_that_is_judged_on_other_clips_begins_the_best_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = settings(validate_every=2, schedule=ScheduleConfig(steps=4))
    run_task(Scored(), feed, short, out=tmp_path / "new", facts=Told(judged="these"))
    run_task(Scored(), feed, short, out=tmp_path / "old")  # as earlier versions wrote them
    for name, judged, best in (("new", "these", 34), ("new", "others", None), ("old", "these", 34)):
        run = Run(Scored(), settings(), judged=judged)
        run.load(last_checkpoint(tmp_path / name))
        assert run.best == best
    longer = settings(validate_every=2, schedule=ScheduleConfig(steps=5))
    for judged, said in (("these", False), ("others", True)):
        capsys.readouterr()
        run_task(
            *(Scored(), feed, longer), out=tmp_path / "new", resume=True, facts=Told(judged=judged)
        )
        assert ("the next one replaces best/" in capsys.readouterr().err) == said


class Halves(Line):
    """A matrix for Muon, and a number for AdamW whose gradient is infinite in step 0."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 3)

    def loss(self, batch: torch.Tensor, step: int, generator: torch.Generator) -> Losses:
        steep = self.model.bias.sum() * (float("inf") if step == 0 else 1.0)
        return Losses((batch @ self.model.weight).float().square().mean() + steep)


def test_a_step_in_half_precision_is_skipped_as_a_whole() -> None:
    run = Run(Halves(), settings(precision="fp16", optimizer=OptimizerConfig(kind="muon")))
    before = run.model.weight.detach().clone()
    for _ in range(2):
        scale = run.scaler.get_scale()
        train_step(run, feed(0))
        assert torch.equal(run.model.weight, before) == (run.step == 1)
        assert (run.scaler.get_scale() < scale) == (run.step == 1)
    assert run.skipped == 1


@pytest.mark.parametrize("background", [False, True])
def test_the_last_checkpoint_of_a_run_that_fails_is_whole(tmp_path: Path, background: bool) -> None:
    def broken(step: int) -> torch.Tensor:
        if step == 5:
            raise ValueError("no clip decodes")
        return feed(step)

    with pytest.raises(ValueError, match="no clip decodes"):
        run_task(Line(), broken, settings(save_every=4, save_async=background), out=tmp_path)
    assert last_checkpoint(tmp_path).step == 4


def test_a_validation_that_fails_loses_no_step(tmp_path: Path) -> None:
    class Failing(Line):
        def validate(self, step: int) -> dict[str, float]:
            raise OSError("the clips are gone")

    with pytest.raises(OSError, match="the clips are gone"):
        run_task(Failing(), feed, settings(validate_every=4, save_every=2), out=tmp_path)
    assert last_checkpoint(tmp_path).step == 4


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["decoded clips", "recipe.json", "log.jsonl", "model"])
def test_a_full_disk_is_named_and_nothing_is_left(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"

    def fail(*_: object, **__: object) -> None:
        raise FULL

    def fail_at_the_log(self: Path, mode: str = "r", *more: object, **options: object) -> object:
        if self.name == "log.jsonl" and "a" in mode:
            raise FULL
        return opened(self, mode, *more, **options)

    opened = Path.open
    if what == "decoded clips":
        monkeypatch.setattr("numpy.save", fail)
    elif what == "recipe.json":
        monkeypatch.setattr(Path, "write_bytes", fail)
    elif what == "log.jsonl":
        monkeypatch.setattr(Path, "open", fail_at_the_log)
    else:
        monkeypatch.setattr("reeltok.tokenizer.folder.save_file", fail)
    one = change(small_recipe(), {"loop.schedule.steps": "1"})
    with pytest.raises(OSError, match=r"cannot write .*: the disk is full") as error:
        train(one, data=clips, out=out, device="cpu")
    place = {"decoded clips": ".npy", "model": "run/model"}.get(what, what)
    assert place in str(error.value)
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert not {name for name in left if name.endswith(".part")}
    if what == "decoded clips":
        assert not list(tmp_path.iterdir())


def test_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    """Bit for bit: losses, weights, mean weights, optimizer."""
    runs = {}
    for name, halves in (("whole", (8,)), ("halves", (3, 8))):
        for number, steps in enumerate(halves):
            torch.manual_seed(1)
            config = settings(schedule=ScheduleConfig(steps=steps), ema=0.9)
            runs[name] = run_task(Line(), feed, config, out=tmp_path / name, resume=number > 0)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "halves")
    whole, halves = runs["whole"].tensors(), runs["halves"].tensors()
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


class Interrupted:
    """Batches, with SIGTERM sent to this process before step 5."""

    def __call__(self, step: int) -> torch.Tensor:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return feed(step)


def test_sigterm_saves_and_exits_143(tmp_path: Path) -> None:
    facts = Told(counts={"train_size": 3, "held_out_size": 1}, judged="these")
    with pytest.raises(SystemExit) as stopped:
        run_task(Line(), Interrupted(), settings(), out=tmp_path, facts=facts)
    assert stopped.value.code == 143
    resumed = run_task(Line(), feed, settings(), out=tmp_path, resume=True, facts=facts)
    assert resumed.step == 8
    begun = [line for line in read_lines(tmp_path / "log.jsonl") if "train_size" in line]
    assert [(line["step"], line.get("resumed", False)) for line in begun] == [(0, False), (6, True)]
    assert facts.counts.items() <= begun[0].items()
    assert len(losses_of(tmp_path)) == 8


def test_a_folder_in_which_another_process_trains_is_left_alone(
    clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(change(small_recipe(), {"loop.schedule.steps": "2"}), data=clips, out=out, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    longer = change(small_recipe(), {"loop.schedule.steps": "4"})
    with held_alone(out, 2), pytest.raises(BlockingIOError, match="another process trains in"):
        train(longer, data=clips, out=out, resume=True, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    train(longer, data=clips, out=out, resume=True, device="cpu")
    assert list(losses_of(out)) == [1, 2, 3, 4]


def test_a_full_cache_is_noted(
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("reeltok.train.launch.unread_cache", lambda *_: "the cache is full")
    short = change(small_recipe(), {"loop.schedule.steps": "1"})
    train(short, data=clips, out=tmp_path / "run", device="cpu")
    assert "note: the cache is full" in capsys.readouterr().err


class Kept(Line):
    """A line that is written as a model."""

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "weight").write_text(str(self.model.weight.tolist()))


def test_a_model_that_a_kill_kept_back_is_written_by_the_resume(tmp_path: Path) -> None:
    run_task(Kept(), feed, settings(), out=tmp_path)
    last = (tmp_path / "model" / "weight").read_text()
    (tmp_path / "model" / "weight").write_text("of an earlier checkpoint")
    assert run_task(Kept(), feed, settings(), out=tmp_path, resume=True).step == 8
    assert (tmp_path / "model" / "weight").read_text() == last


def background(monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
    """Let writing in the background end, or fail, before the next step."""

    def save_at_once(tensors: dict, *, checkpoint_id: Path, no_dist: bool, **_: object) -> Future:
        future = Future[object]()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(dcp.save(tensors, checkpoint_id=checkpoint_id, no_dist=no_dist))
        return future

    monkeypatch.setattr(dcp, "async_save", save_at_once)


def test_what_is_written_in_the_background_gets_its_name_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background(monkeypatch)
    named = dict[int, list[int]]()

    def watched(step: int) -> torch.Tensor:
        named[step] = [found.step for found in find_checkpoints(tmp_path)]
        assert (tmp_path / "model").exists() == bool(named[step])
        return feed(step)

    run_task(Kept(), watched, settings(save_every=3, save_async=True), out=tmp_path)
    assert [named[step] for step in range(8)] == [[]] * 4 + [[3]] * 3 + [[3, 6]]
    assert [found.step for found in find_checkpoints(tmp_path)] == [6, 8]


def test_a_run_whose_first_checkpoint_failed_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(save_every=3, save_async=True)
    (tmp_path / "recipe.json").write_text("{}")
    with monkeypatch.context() as patch:
        background(patch, FULL)
        with pytest.raises(OSError, match=r"No space left on device.*there is none yet"):
            run_task(Kept(), feed, config, out=tmp_path)
    with pytest.warns(UserWarning, match="has no checkpoint yet: it begins anew"):
        assert run_task(Kept(), feed, config, out=tmp_path, resume=True).step == 8


def test_a_thread_can_train(tmp_path: Path) -> None:
    """Signals are for the main thread alone."""
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_task, Line(), feed, settings(), out=tmp_path).result()
    assert run.step == 8


def test_accumulated_parts_give_the_whole_batch(clips: Path, tmp_path: Path) -> None:
    changes = {"loop.schedule.steps": "3", "settings.quantizer.rounding_from": "0"}
    changes["settings.quantizer.even"] = "0"  # a statistic of the parts is not that of the whole
    recipe = change(small_recipe(), changes)
    train(recipe, data=clips, out=tmp_path / "whole", device="cpu")
    train(
        change(recipe, {"loop.accumulate": "2"}), data=clips, out=tmp_path / "parts", device="cpu"
    )
    assert losses_of(tmp_path / "parts") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)


@pytest.mark.parametrize(("left", "parts"), [(4, 2), (3, 2), (5, 3), (3, 4), (1, 2)])
def test_the_clips_left_of_a_batch_weigh_the_same(left: int, parts: int) -> None:
    class Mean(Line):
        def loss(self, batch: torch.Tensor, step: int, generator: torch.Generator) -> Losses:
            return Losses(self.model(batch).mean())

    whole, split = (Run(Mean(), settings(accumulate=n, grad_clip=None)) for n in (1, parts))
    split.model.load_state_dict(whole.model.state_dict())
    found = [train_step(run, feed(0).repeat(2, 1)[:left]) for run in (whole, split)]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert divisors(6, 3) == [3.0] * 3


def test_frozen_parts_do_not_move(clips: Path, tmp_path: Path) -> None:

    changes = {"loop.schedule.steps": "2", "loop.freeze": '["encoder", "quantizer"]'}
    recipe = change(small_recipe(), changes)
    before = build_model(recipe).state_dict()
    after = train(recipe, data=clips, out=tmp_path, device="cpu").model.tokenizer.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(key.startswith("decoder") for key in moved)


def test_the_best_may_be_the_least(tmp_path: Path) -> None:
    class Falling(Kept):
        def validate(self, step: int) -> dict[str, float]:
            return {"lpips": abs(step - 4) / 10}

    run = run_task(Falling(), feed, settings(best="-lpips", validate_every=2), out=tmp_path)
    assert run.best == 0.0
    assert (tmp_path / "best" / "weight").read_text() != (tmp_path / "model" / "weight").read_text()


def test_unknown_parts_are_named(tmp_path: Path) -> None:
    for setting in ("freeze", "compile", "activation_checkpointing"):
        with pytest.raises(ValueError, match=rf"loop.{setting} names .*nothing_such"):
            run_task(Line(), feed, settings(**{setting: ("nothing_such",)}), out=tmp_path)
