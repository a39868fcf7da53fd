"""Two gloo processes give one process's losses; a checkpoint of two is read by one."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import DISCRETE, save_random
from small_run import small_recipe

from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.nn.quantizers import FSQConfig
from reeltok.train.checks import require_shares
from reeltok.train.launch import train
from reeltok.train.logbook import read_lines
from reeltok.train.recipes import change

PLAIN = {
    # Small steps: what two processes round otherwise grows with lr.
    "loop.optimizer.lr": "4e-4",
    "loop.schedule.steps": "4",
    "settings.quantizer.rounding_from": "0",
    "loop.grad_clip": "0.5",
}
"""No noise: then a step depends on its batch alone, however it is shared out."""


def terms_of(out: Path, name: str = "loss") -> dict[int, float]:
    return {line["step"]: line[name] for line in read_lines(out / "log.jsonl") if name in line}


def run_two(clips: Path, out: Path, *changes: str) -> None:
    """The small recipe under torchrun with two processes."""
    program = str(Path(__file__).parent / "small_run.py")
    launch_two(program, str(clips), str(out), *changes)


def launch_two(*program: str) -> None:
    """A program under torchrun with two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command = [sys.executable, *launcher, *program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_two_processes_give_the_losses_of_one(
    clips: Path, tmp_path: Path, strategy: str, kind: str
) -> None:
    changes = {**PLAIN, "loop.strategy": strategy, "loop.optimizer.kind": kind}
    # Parts of a batch are other clips where processes share them; a statistic would see that.
    changes |= {"loop.accumulate": "2", "settings.quantizer.even": "0"}
    train(change(small_recipe(), changes), data=clips, out=tmp_path / "one", device="cpu")
    run_two(clips, tmp_path / "two", *(f"{key}={value}" for key, value in changes.items()))
    one, two = terms_of(tmp_path / "one"), terms_of(tmp_path / "two")
    assert two == pytest.approx(one, abs=1e-5)
    longer = change(small_recipe(), {**changes, "loop.schedule.steps": "5"})
    train(longer, data=clips, out=tmp_path / "two", resume=True, device="cpu")
    train(longer, data=clips, out=tmp_path / "one", resume=True, device="cpu")
    assert terms_of(tmp_path / "two")[5] == pytest.approx(terms_of(tmp_path / "one")[5], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_statistics_of_a_critic_are_taken_over_all_processes(
    clips: Path, tmp_path: Path, strategy: str
) -> None:
    """Adaptive weight, LeCAM, evenness; without BatchNorm, whose batch is a process's own."""
    discriminator = {
        "width": 8,
        "layers": 2,
        "norm": "none",
        "first": 1,
        "lecam": 0.1,
        "weight": 0.5,
    }
    changes = {
        **PLAIN,
        "losses.discriminator": json.dumps(discriminator),
        "loop.strategy": strategy,
    }
    train(change(small_recipe(), changes), data=clips, out=tmp_path / "one", device="cpu")
    run_two(clips, tmp_path / "two", *(f"{key}={value}" for key, value in changes.items()))
    for name in ("loss", "even", "adaptive", "lecam", "discriminator_loss"):
        one, two = (terms_of(tmp_path / run, name) for run in ("one", "two"))
        assert len(one) >= 3
        assert two == pytest.approx(one, abs=1e-5, rel=1e-3), name


@pytest.mark.slow
def test_two_processes_train_a_reftok(clips: Path, tmp_path: Path) -> None:
    """Frames that are stored or reset come in the same steps, and `even` is summed as often.

    Images meet no reference, whose weights then have no gradient.
    """
    quantizer = FSQConfig(levels=(8, 8, 5), regularization=False, even=0.1)
    body = replace(COMPACT, width=8, quantizer=quantizer)
    RefTok(RefTokConfig(body=body, width=4)).save_pretrained(tmp_path / "tiny")
    window = {"frames": 9, "size": 16, "batch": 4}
    image = {**window, "frames": 1, "share": 0.5}
    changes = {
        "model": str(tmp_path / "tiny"),
        "settings": "{}",
        "data.windows": json.dumps([window, image]),
        "data.validation": json.dumps(window),
        "loop.schedule.steps": "12",
    }
    run_two(clips, tmp_path / "two", *(f"{key}={value}" for key, value in changes.items()))
    assert len(terms_of(tmp_path / "two", "even")) == 12


@pytest.mark.slow
def test_two_processes_train_a_packing_model(clips: Path, tmp_path: Path) -> None:
    model = save_random({"discrete": DISCRETE}, tmp_path)["discrete"]
    window = {"frames": 9, "size": 32, "batch": 4}
    changes = {
        "tokenizer": str(model),
        **{"clips": "5", "width": "8", "data.weights": "{}", "data.other": "1"},
        "data.windows": json.dumps([window]),
        "data.validation": json.dumps(window),
        "loop.schedule.steps": "12",
        "loop.log_every": "1",
    }
    out = tmp_path / "run"
    program = ["-m", "reeltok", "train", "packing_cpu", "--data", str(clips), "--out", str(out)]
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    launch_two(*program, "--device", "cpu", *sets)
    assert len(terms_of(out, "half_1")) == 12


def test_batch_must_be_shared_equally() -> None:
    with pytest.raises(ValueError, match="batch of 4 cannot be shared by 3 processes"):
        require_shares(small_recipe(), 3)
