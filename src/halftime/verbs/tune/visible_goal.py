"""What a certificate of `tune --visible` shall say, and how many pictures it needs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.base.certain import fewest_draws
from halftime.base.errors import BadInput
from halftime.verbs.tune.race import ROUNDS
from halftime.verbs.tune.routing import LEARNED
from halftime.verbs.tune.visible import check_metrics
from halftime.verbs.verify.render import PicturePrompt, prompt_set

if TYPE_CHECKING:
    from halftime.records import Workload

SEARCHED = ROUNDS[-1]  # pictures of the search
MOST_DRAWS = 400  # pictures of a test
MEASURE_SECONDS = 0.1  # a pair of pictures through the rule's metrics
_SHUFFLED_BY = 22  # search and test are random parts of the prompts, the same in each run


@dataclass(frozen=True)
class VisibleGoal:
    """At most a share `alpha` of the pictures may differ visibly, with `confidence`. `limits` say
    what differs visibly (metric -> its limit); empty: the rule of `visible`."""

    alpha: float
    confidence: float = 0.95
    limits: dict[str, float] = field(default_factory=dict)
    draws: int = MOST_DRAWS  # pictures of a test, at most

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise BadInput(
                f"visible is {self.alpha:g}; it must lie above 0 and below 1, a share of the "
                "pictures, for example 2%."
            )
        if not 0.5 <= self.confidence < 1:
            raise BadInput(
                f"confidence is {self.confidence:g}; it must be at least 0.5 and below 1, for "
                "example 95%."
            )
        check_metrics(self.limits)
        if self.draws < self.fewest:
            raise BadInput(f"{self.draws} pictures are too few: {self.needs}. Give more --prompts.")

    @property
    def fewest(self) -> int:
        """Pictures of a test without a single failure."""
        return fewest_draws(self.alpha, self.confidence)

    @property
    def needs(self) -> str:
        """'a certificate of 2 % at 95 % needs 149 pictures even if none differs'."""
        return (
            f"a certificate of {units.share(self.alpha)} at {units.share(self.confidence)} "
            f"needs {self.fewest} pictures of different prompts even if none of them differs"
        )


def certifiable_prompts(workload: Workload, goal: VisibleGoal) -> list[PicturePrompt]:
    """Different prompts in random order: the first SEARCHED for the search, the others for tests.

    Raises BadInput where there are too few.
    """
    most = SEARCHED + LEARNED + goal.draws
    # the workload's own come round again where there are fewer
    distinct = list({prompt.text: prompt for prompt in prompt_set(workload, 100 * most)}.values())
    if len(distinct) < SEARCHED + goal.fewest:
        raise BadInput(
            f"the workload has {len(distinct)} different prompts; {goal.needs}, and the search "
            f"{SEARCHED} more. Give more prompts, or allow more, for example --visible "
            f"{enough(len(distinct), goal):.0%}."
        )
    random.Random(_SHUFFLED_BY).shuffle(distinct)
    return distinct[:most]


def certificate_seconds(goal: VisibleGoal, call_seconds: float) -> float:
    """What the smallest certificate takes: both plans' pictures of one setting."""
    return 2 * (SEARCHED + goal.fewest) * (call_seconds + MEASURE_SECONDS)


def enough(prompts: int, goal: VisibleGoal) -> float:
    """A share, in whole percent, that so many prompts could certify."""
    draws = max(1, prompts - SEARCHED)
    return next(
        (p / 100 for p in range(1, 50) if fewest_draws(p / 100, goal.confidence) <= draws), 0.5
    )
