"""RefTok's task: references of every kind, gradients of the loop, the warm start, recipes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reeltok import zoo
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, VQConfig
from reeltok.nn.quantizers.vector import VQ
from reeltok.recipes import find_recipe
from reeltok.train import dry_run
from reeltok.train.build import warm
from reeltok.train.checks import require_groups
from reeltok.train.clips import ClipBatch, DataConfig, Window
from reeltok.train.launch import train
from reeltok.train.motion import MotionLoss
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.reconstruct import LossConfig
from reeltok.train.reftok import ClosedLoop, DegradationConfig, degrade, draw_references
from reeltok.train.run import LoopConfig, Run, Task

BODY = replace(COMPACT, width=8, quantizer=FSQConfig(levels=(8, 8, 5), regularization=False))
TINY = RefTokConfig(body=BODY, width=4)
NEVER = DegradationConfig(drop=0.0, reset=0.0, stored=0.0)


def batch(frames: int = 9, clips: int = 4) -> ClipBatch:
    x = torch.rand(clips, 3, frames, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return ClipBatch(x=x, names=("",) * clips, groups=("",) * clips)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build() -> RefTok:
    torch.manual_seed(0)
    return RefTok(TINY).train()


def test_a_task_trains_both_sides() -> None:
    task = ClosedLoop(build(), LossConfig(pixel="l1"), degradation=NEVER)
    assert isinstance(task, Task)
    optimizer = torch.optim.SGD(task.parameters().parameters(), lr=0.01)
    for _ in range(2):  # the zero-started ends move first, then what lies behind them
        optimizer.zero_grad()
        losses = task.loss(batch(), 0, seeded())
        losses.total.backward()
        optimizer.step()
    still = [n for n, p in task.parameters().named_parameters() if p.grad is None]
    assert not still
    for side in ("encoder_injection", "decoder_injection"):
        assert all(
            p.grad.any()
            for p in getattr(task.trained.tokenizer, side).reference_encoder.parameters()
        )


def test_motion_and_skips_leave_no_part_without_gradients() -> None:
    torch.manual_seed(0)
    config = replace(TINY, motion=MotionConfig(width=8), skip=0.2)
    losses = LossConfig(pixel="l1", motion=MotionLoss(until=10), last_frame=1.5)
    task = ClosedLoop(RefTok(config).train(), losses, degradation=NEVER)
    optimizer = torch.optim.Adam(task.parameters().parameters(), lr=0.01)
    weights = dict(task.parameters().named_parameters())
    begun = {name: weight.detach().clone() for name, weight in weights.items()}
    for step in range(3):  # a decoding without gradients must leave no casts of weights behind
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = task.loss(batch(), step, seeded())
        found.total.backward()
        optimizer.step()
    assert [name for name, weight in weights.items() if torch.equal(weight, begun[name])] == []
    assert found.terms["motion"] > 0
    assert "motion" not in task.loss(batch(), 10, seeded()).terms


def test_a_step_is_a_function_of_its_generator() -> None:
    degradation = DegradationConfig(drop=0.5, reset=0.5, stored=0.5)
    task = ClosedLoop(build(), LossConfig(pixel="l2"), degradation=degradation)
    with torch.no_grad():
        weights = task.trained.tokenizer.decoder_injection.fine.conv.weight
        weights.normal_(std=0.5)
        found = [task.loss(batch(), 5, seeded(seed)).total.item() for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def called_kinds(config: RefTokConfig) -> list[str]:
    """The classes of the parts that a network calls."""
    parts = RefTok(config).modules()
    return sorted({type(m).__name__ for m in parts if type(m).forward is not nn.Module.forward})


FOLLOWING = replace(TINY, motion=MotionConfig(width=8), skip=0.2)


@pytest.mark.parametrize("config", [TINY, FOLLOWING], ids=["stands", "follows"])
def test_recomputed_activations_give_the_same_gradients(config: RefTokConfig) -> None:
    def gradients(kinds: tuple[str, ...]) -> Tensor:
        torch.manual_seed(0)
        tokenizer = RefTok(config).train()
        for weight in tokenizer.parameters():  # nothing may hide behind an end that starts at zero
            weight.data += 0.05 * torch.randn_like(weight)
        poor = DegradationConfig(drop=0.3, reset=0.5, stored=0.5)
        task = ClosedLoop(tokenizer, LossConfig(pixel="l1"), degradation=poor)
        run = Run(task, LoopConfig(precision="fp32", activation_checkpointing=kinds))
        run.loss(batch(), 0, run.seeded(0)).total.backward()
        found = [p.grad.flatten() for p in tokenizer.parameters() if p.grad is not None]
        return torch.cat(found)

    plain = gradients(())
    for kinds in (("Residual",), ("Conv",), tuple(called_kinds(config))):
        apart = (gradients(kinds) - plain).abs().max() / plain.abs().max()
        assert apart < 1e-4, kinds


def test_references_are_drawn_as_often_as_asked() -> None:
    x = batch(frames=13).x
    none = draw_references(x, 4, NEVER, seeded())
    every = draw_references(x, 4, DegradationConfig(reset=1.0, stored=1.0), seeded())
    assert none == {}
    assert sorted(every) == [0, 5, 9]
    assert every[0].start
    assert every[5].frame is None
    assert every[5].clips.all()
    generator = seeded()
    begun = sum(
        0 in draw_references(x, 4, DegradationConfig(stored=0.3), generator) for _ in range(200)
    )
    assert 40 < begun < 80


def test_a_frame_alone_is_coded() -> None:
    always = DegradationConfig(stored=1.0)
    task = ClosedLoop(build(), LossConfig(pixel="l1"), degradation=always, images=True)
    found = task.loss(batch(frames=1), 0, seeded())
    found.total.backward()
    weights = task.trained.tokenizer.named_parameters()
    assert all("_injection" in name for name, weight in weights if weight.grad is None)
    assert task.leaves_out


def test_a_window_of_nothing_but_a_stored_frame_is_refused() -> None:
    one = Window(frames=1, size=16, batch=2)
    recipe = replace(find_recipe("reftok_cpu"), data=DataConfig(windows=(one,), validation=one))
    require_groups(recipe, RefTok(TINY))
    with pytest.raises(ValueError, match=r"window of 1 frame holds only what .* choose 5"):
        require_groups(recipe, RefTok(replace(TINY, start="webp")))


@pytest.mark.parametrize("seed", range(5))
def test_every_process_goes_through_its_network_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    poor, x, drawn = DegradationConfig(reset=0.1, stored=0.5), batch(frames=17).x, list[Tensor]()
    monkeypatch.setattr("reeltok.train.reftok.from_first", lambda x: drawn.append(x) or x)
    first = draw_references(x, 4, poor, seeded(seed))
    monkeypatch.setattr("reeltok.train.reftok.from_first", lambda x: drawn.pop(0))
    assert list(draw_references(x, 4, poor, seeded(100 + seed))) == list(first)


def test_frames_that_are_not_coded_move_no_codebook(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = []
    monkeypatch.setattr(VQ, "follow", lambda self, x, *_: followed.append(len(x)))
    quantizer = VQConfig(codes=32, width=4, ema=0.9, entropy=0)
    tokenizer = RefTok(replace(TINY, body=replace(BODY, quantizer=quantizer))).train()
    for poor in (NEVER, DegradationConfig(drop=0, reset=1.0, stored=1.0)):
        followed.clear()
        task = ClosedLoop(tokenizer, LossConfig(pixel="l1"), degradation=poor)
        task.loss(batch(), 0, seeded())
        assert len(followed) == (3 if poor is NEVER else 2)  # a stored first frame is not coded
    assert tokenizer.quantizer.training


def test_degraded_frames_stay_near_and_in_range() -> None:
    smooth = torch.nn.functional.interpolate(batch(1).x[:1, :, 0], (64, 64), mode="bicubic")
    x, generator = smooth.clamp(-1, 1)[:, :, None], seeded()
    made = [degrade(x, DegradationConfig(), generator) for _ in range(24)]
    apart = [(y - x).abs().mean().item() for y in made]
    assert all(y.shape == x.shape and y.abs().max() <= 1.05 for y in made)
    assert min(apart) == 0 < max(apart) < 0.3


def test_dropped_references_give_the_plain_loss() -> None:
    model = build()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_injection" in name and not weight.any():
                weight.normal_(std=0.5)
    always = DegradationConfig(drop=1.0, reset=0.0, stored=0.0)
    found: list[Tensor] = []
    for tokenizer, degradation in (
        (model, always),
        (model.under(policy="none"), NEVER),
        (model, NEVER),
    ):
        task = ClosedLoop(tokenizer, LossConfig(pixel="l1"), degradation=degradation)
        with torch.no_grad():
            found.append(task.loss(batch(), 0, seeded()).total)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_warm_start_is_the_plain_tokenizer() -> None:
    torch.manual_seed(1)
    plain, model = VidTok(BODY).eval(), RefTok(replace(TINY, cuts="ignore")).eval()
    x = batch().x
    assert not torch.equal(model.encode(x).ids, plain.encode(x).ids)
    warm(model, plain)
    assert torch.equal(model.encode(x).ids, plain.encode(x).ids)
    with pytest.raises(ValueError, match="does not fit; choose a model of the same body"):
        warm(model, VidTok(replace(BODY, width=16)))


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("reftok_cpu", "reftok_none_cpu"),
        ("reftok_gpu", "reftok_none_gpu"),
        ("reftok_robot", "reftok_robot_none"),
        ("reftok_push", "reftok_push_none"),
        ("reftok_push_gpu", "reftok_push_none_gpu"),
    ],
)
def test_recipes_fit_their_models(name: str, twin: str) -> None:
    recipe, other = find_recipe(name), find_recipe(twin)
    family, config = zoo.described(recipe.model)
    assert family == "reftok"
    with torch.device("meta"):
        require_groups(recipe, RefTok(config))
    assert (other.data, other.losses, other.warm) == (recipe.data, recipe.losses, recipe.warm)
    assert other.loop == replace(recipe.loop, freeze=other.loop.freeze)
    assert zoo.described(other.model)[1] == replace(config, policy="none")
    unrolled = [w for w in recipe.data.windows if w.frames > 1 + config.block]
    assert min(w.since for w in unrolled) <= recipe.loop.schedule.steps / 2


@pytest.mark.parametrize("policy", ["previous", "none"])
def test_a_run_from_a_trained_body(policy: str, clips: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    VidTok(BODY, "body").save_pretrained(tmp_path / "body")
    RefTok(replace(TINY, policy=policy), "tiny").save_pretrained(tmp_path / "tiny")
    window = Window(frames=9, size=16, batch=2)
    recipe = replace(
        find_recipe("reftok_cpu" if policy == "previous" else "reftok_none_cpu"),
        model=str(tmp_path / "tiny"),
        warm=str(tmp_path / "body"),
        data=DataConfig(windows=(window,), holdout=0.3, validation=replace(window, batch=2)),
    )
    loop = replace(recipe.loop, precision="fp32", schedule=ScheduleConfig(steps=3))
    recipe = replace(recipe, loop=replace(loop, validate_every=3))
    run = train(recipe, data=clips, out=tmp_path / "run", device="cpu")
    assert run.step == 3
    again = zoo.load(tmp_path / "run" / "model")
    assert again.config.policy == policy
    x = batch().x
    assert again.decode(again.encode(x)).shape == x.shape


def test_a_dry_run(tmp_path: Path) -> None:
    RefTok(TINY, "tiny").save_pretrained(tmp_path / "tiny")
    window = Window(frames=9, size=16, batch=2)
    recipe = replace(
        find_recipe("reftok_cpu"),
        model=str(tmp_path / "tiny"),
        warm=None,
        data=DataConfig(windows=(window,)),
        loop=LoopConfig(optimizer=OptimizerConfig(kind="adamw"), precision="fp32"),
    )
    assert dry_run(recipe, device="cpu").parameters == RefTok(TINY).parameter_count()
