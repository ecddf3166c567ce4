"""What a user of `tune` may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from halftime.base.errors import BadInput
from halftime.verbs.tune.decide import Goal
from halftime.verbs.tune.quality import LOSS
from halftime.verbs.tune.visible_goal import VisibleGoal


@dataclass(frozen=True)
class Options:
    """What a user may choose. Seconds; `loss` is the mean FLIP error that approximate fixes may
    cost together."""

    goal: Goal = field(default_factory=Goal)
    budget: float = 600.0
    approximate: bool = False
    sweep_only: bool = False
    loss: float = LOSS
    prompts: int = 24
    partial: Path | None = None
    # then approximate fixes are tried too, and so many pictures may differ visibly
    visible: VisibleGoal | None = None
    memory: int | None = None  # bytes that a call may take of its device

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise BadInput(f"prompts is {self.prompts}; it must be 1 or more.")
        if self.memory is not None and (self.sweep_only or self.visible):
            option = "--sweep" if self.sweep_only else "--visible"
            raise BadInput(
                f"--memory and {option} exclude each other: find a plan that fits with --memory "
                f"first, and what {option} finds goes on top of that recipe."
            )
        if not self.loss > 0:
            raise BadInput(
                f"loss is {self.loss:g}; it must be above 0, a mean FLIP error, for example "
                f"{LOSS:g}."
            )
