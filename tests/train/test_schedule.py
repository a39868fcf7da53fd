"""The learning rate: whole however short the run, without a jump wherever it is resumed."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from small_run import small_recipe
from test_loop import Line, feed
from thorough import slow_but

from reeltok.generate.recipes import GENERATORS
from reeltok.train import RECIPES, change, train
from reeltok.train.logbook import read_lines
from reeltok.train.loop import run_task
from reeltok.train.optimizers import ScheduleConfig
from reeltok.train.run import LoopConfig
from reeltok.train.schedule import Schedule

PLAN = ScheduleConfig(steps=3500, warmup=50, cooldown=0.514)


def factors(schedule: ScheduleConfig | Schedule, first: int, last: int) -> list[float]:
    return [schedule.factor(step) for step in range(first, last)]


@pytest.mark.parametrize("steps", slow_but((1, 2, 7, 60), [1, 2, 7, 60, 100_000]))
@pytest.mark.parametrize("name", [*RECIPES, *GENERATORS])
def test_however_short_a_run_its_rate_is_reached(
    types_unchecked: None, name: str, steps: int
) -> None:
    recipe = (RECIPES | GENERATORS)[name]()
    short = change(recipe, {"loop.schedule.steps": str(steps)}).loop.schedule
    assert max(factors(short, 0, steps)) == pytest.approx(1.0)
    assert short.cooldown == recipe.loop.schedule.cooldown


def test_recipes_keep_their_cooldowns() -> None:
    steps = {
        name: round(recipe.loop.schedule.cooldown * recipe.loop.schedule.steps)
        for name, recipe in ((name, make()) for name, make in (RECIPES | GENERATORS).items())
    }
    assert RECIPES["default_cpu"]().loop.schedule.cooldown == 0.514
    known = {"default_cpu": 1799, "default_gpu": 3200, "default_sharp_gpu": 1500, "small": 300}
    known |= {"finetune": 350, "reftok_cpu": 1400, "reftok_robot": 450, "coordtok_cpu": 480}
    assert known | {"sit_cpu": 800, "prior_cpu": 0, "vidtok_stage1": 0} == {
        name: steps[name] for name in (*known, "sit_cpu", "prior_cpu", "vidtok_stage1")
    }


@pytest.mark.parametrize("cooldown", ["-0.1", "1.01", "1800"])
def test_a_cooldown_is_a_share(cooldown: str) -> None:
    with pytest.raises(ValueError, match=r"loop\.schedule\.cooldown"):
        change(small_recipe(), {"loop.schedule.cooldown": cooldown})


def test_fewer_steps_begin_the_cooldown_at_once() -> None:
    cut = Schedule(plan=PLAN).resumed(ScheduleConfig(steps=1500, warmup=50, cooldown=0.514), 1000)
    assert cut.factor(1000) == 1.0  # where it is
    assert cut.factor(1250) == pytest.approx(0.5)
    assert cut.factor(1499) == pytest.approx(1 / 500)
    low = Schedule(plan=PLAN).resumed(ScheduleConfig(steps=3100, warmup=50, cooldown=0.514), 3000)
    assert low.factor(3000) == pytest.approx(PLAN.factor(3000))
    assert low.factor(3050) == pytest.approx(PLAN.factor(3000) / 2)


def test_fewer_steps_during_the_warmup_leave_it_its_rate() -> None:
    short = ScheduleConfig(steps=600, warmup=50, cooldown=0.514)
    resumed = Schedule(plan=PLAN).resumed(short, 20)
    assert factors(resumed, 20, 600) == pytest.approx(factors(short, 20, 600))


def resumes() -> Iterator[tuple[Schedule, int]]:
    """Schedules of runs that were resumed, some of them twice, and the step of the last resume."""
    plans = [
        PLAN,
        ScheduleConfig(steps=3500, warmup=400, shape="cosine", min_lr_ratio=0.1),
        ScheduleConfig(steps=3500),
    ]
    for before in plans:
        for at in (10, 200, 1000, 3000, 3499, 3500):
            for steps in (at + 1, 3400, 3600, 9000):
                for plan in plans:
                    if steps > at:
                        changed = change_steps(plan, steps)
                        once = Schedule(plan=before).resumed(changed, at)
                        yield once, at
                        again = at + (steps - at) // 2
                        if again > at:
                            yield once.resumed(change_steps(plan, steps + 500), again), again


def change_steps(plan: ScheduleConfig, steps: int) -> ScheduleConfig:
    return ScheduleConfig(
        steps=steps,
        warmup=plan.warmup,
        shape=plan.shape,
        cooldown=plan.cooldown,
        min_lr_ratio=plan.min_lr_ratio,
    )


def test_no_resume_makes_the_rate_jump(types_unchecked: None) -> None:
    for schedule, at in resumes():
        found = [schedule.present, *factors(schedule, at, schedule.plan.steps)]
        assert all(0 <= factor <= 1 for factor in found)
        # What is left is at most crossed in a quarter of its steps, beside the plan's own slope.
        most = 4 / max(4, schedule.plan.steps - at - 4) + 1 / 50
        assert max(abs(b - a) for a, b in pairwise(found)) <= most + 1e-9


def test_more_steps_come_back_to_the_plan() -> None:
    more = ScheduleConfig(steps=7500, warmup=50, cooldown=0.514)
    resumed = Schedule(plan=PLAN).resumed(more, 3500)
    assert resumed.factor(3500) == pytest.approx(PLAN.factor(3499))
    assert resumed.factor(4500) == more.factor(4500)


def test_the_same_plan_is_the_same_schedule() -> None:
    once = Schedule(plan=PLAN).resumed(ScheduleConfig(steps=1500, cooldown=0.2), 1000)
    assert once.resumed(once.plan, 1200) == once
    assert Schedule.of(once.numbers()) == once


def lrs(out: Path) -> list[float]:
    return [line["lr"] for line in read_lines(out / "log.jsonl") if "lr" in line]


def run(out: Path, plan: ScheduleConfig, **more: object) -> None:
    loop = LoopConfig(schedule=plan, precision="fp32", log_every=1, save_every=2)
    run_task(Line(), feed, loop, out=out, **more)


def test_a_resume_is_kept_in_the_checkpoints(tmp_path: Path) -> None:
    """Three runs, cut short after 6 of 20 steps: one goes through, one is resumed once more."""
    plan, short = ScheduleConfig(steps=20, cooldown=0.5), ScheduleConfig(steps=12, cooldown=0.5)

    def until(last: int):
        def give(step: int):
            if step == last:
                raise InterruptedError
            return feed(step)

        return give

    loop = {"precision": "fp32", "log_every": 1, "save_every": 2}
    for name in ("once", "twice"):
        with pytest.raises(InterruptedError):
            run_task(Line(), until(6), LoopConfig(schedule=plan, **loop), out=tmp_path / name)
    cut = LoopConfig(schedule=short, **loop)
    with pytest.raises(InterruptedError):
        run_task(Line(), until(9), cut, out=tmp_path / "twice", resume=True)
    for name in ("once", "twice"):
        run(tmp_path / name, short, resume=True)
    wanted = [1.0] * 6 + [1 - n / 6 for n in range(6)]
    assert lrs(tmp_path / "once") == pytest.approx([1e-4 * factor for factor in wanted])
    assert lrs(tmp_path / "twice") == lrs(tmp_path / "once")
    with pytest.raises(ValueError, match=r"has made 12 steps, loop.schedule.steps=5 are fewer"):
        run(tmp_path / "once", ScheduleConfig(steps=5), resume=True)


def test_rate_of_a_short_run_in_its_log(clips: Path, tmp_path: Path) -> None:
    """As `--set loop.schedule.steps=6` of a recipe for many more does it."""
    changes = {"loop.schedule.steps": "6", "loop.schedule.warmup": "200"}
    train(change(small_recipe(), changes), data=clips, out=tmp_path / "run", device="cpu")
    lr = small_recipe().loop.optimizer.lr
    assert max(lrs(tmp_path / "run")) == pytest.approx(lr)
