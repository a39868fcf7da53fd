"""The learning rate of a run that is resumed: without a jump, whatever the resume changes.

It is a function of the step alone, so that a run that was killed and resumed repeats it. What a
resume changes is kept in the checkpoints.
"""

from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from reeltok.train.optimizers import ScheduleConfig


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Schedule:
    """The learning rate of a run through all its resumes; checkpoints hold it.

    A resume that changes the plan, at step `since`, goes on from `present`, what that step would
    have multiplied it with. With fewer steps (`ends`) the cooldown begins there; else the
    learning rate comes back to the plan within a quarter of the steps that are left.
    """

    plan: ScheduleConfig
    since: int = Field(default=0, ge=0)
    present: float = Field(default=1.0, ge=0, le=1)
    ends: bool = False

    def factor(self, step: int) -> float:
        """What step `step` (from 0) multiplies the learning rate with."""
        plan, gone = self.plan, step - self.since
        if not self.since:
            return plan.factor(step)
        left = max(1, plan.steps - self.since)
        if self.ends:
            return plan.min_lr_ratio + (self.present - plan.min_lr_ratio) * max(
                0.0, 1 - gone / left
            )
        gap = self.present - plan.factor(self.since)
        back = plan.factor(step) + gap * max(0.0, 1 - gone / max(1, left // 4))
        return min(1.0, max(0.0, back))

    def resumed(self, plan: ScheduleConfig, step: int) -> "Schedule":
        """The schedule of a run that goes on by `plan` after `step` steps."""
        if plan == self.plan or not step:
            return self if plan == self.plan else Schedule(plan=plan)
        # A run that came to its end stands where its last step was, not at the minimum after it.
        present = self.factor(min(step, self.plan.steps - 1))
        warm = step > plan.rise  # a warm-up goes on: where it stands is nothing to stay below
        falls = plan.shape == "constant" and plan.cooldown > 0
        ends = plan.steps < self.plan.steps and falls and warm
        return Schedule(plan=plan, since=step, present=present, ends=ends)

    def numbers(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return TypeAdapter(Schedule).dump_python(self, mode="json")

    @staticmethod
    def of(numbers: Any) -> "Schedule":
        """From what `numbers` gave; pydantic's ValidationError, a ValueError, for anything else."""
        return TypeAdapter(Schedule).validate_python(numbers)
