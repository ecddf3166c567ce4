"""How much of the end fits into what is left of the budget: the verification, the last measurement
in turns, and the ledgers before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FEWEST_PROMPTS = 6  # a verification on fewer says nothing
FLOOR_SETS = 4  # harmless variations of the baseline, at most
# What the parts are expected to take, in calls and seconds.
_COMPARE_SECONDS = 0.15  # a pair of pictures through all metrics
_CALLS_PER_FLOOR_PICTURE = 1.2  # of the baseline: one variation is slower
METRICS_SECONDS = 8.0  # loading the metrics and the judge
_MARGIN = 1.1  # a machine that others use becomes slower


class Ending(NamedTuple):
    """What is drawn and measured at the end. `runs` 0: no ledger of the recipe."""

    prompts: int
    floor_prompts: int  # of each of the FLOOR_SETS
    rounds: int  # of baseline and recipe in turns
    runs: int  # steady ones of each ledger

    @property
    def warmup(self) -> int:
        """Both plans are warm by then; short ledgers do without."""
        return 1 if self.runs >= 3 else 0

    @property
    def ledger_calls(self) -> int:
        """Calls of each plan for its ledger."""
        return 1 + self.warmup + self.runs if self.runs else 0


# From what everybody wants to what is better than nothing; intervals want four rounds.
_SIZES = ((4, 11, 5), (4, 9, 3), (3, 7, 3), (2, 5, 2), (2, 4, 1), (1, 4, 0), (1, 2, 0))
SMALLEST = Ending(FEWEST_PROMPTS, *_SIZES[-1])


def endings(prompts: int) -> Iterator[Ending]:
    """The largest first; fewer prompts before less of anything else."""
    fewest = min(FEWEST_PROMPTS, prompts)
    for number, size in enumerate(_SIZES):
        least = max(fewest, prompts // 2**number) if number < 2 else fewest
        for count in range(prompts, least - 1, -1):
            yield Ending(count, *size)


def ending_seconds(
    ending: Ending,
    baseline: float,
    tuned: float,
    verified: bool = False,
    metrics: float = METRICS_SECONDS,
) -> float:
    """What it takes, where a call takes `baseline` and one with the recipe `tuned` seconds, and a
    comparison `metrics`; `verified`: the pictures are compared already."""
    calls = ending.rounds + ending.ledger_calls
    seconds = calls * (baseline + tuned)
    if not verified:
        floor_calls = _CALLS_PER_FLOOR_PICTURE * FLOOR_SETS * ending.floor_prompts
        seconds += ending.prompts * (baseline + tuned) + floor_calls * baseline
        seconds += _COMPARE_SECONDS * ending.prompts + metrics
    return _MARGIN * seconds


def ending_within(
    seconds: float,
    baseline: float,
    tuned: float,
    prompts: int,
    verified: bool = False,
    metrics: float = METRICS_SECONDS,
) -> Ending:
    """The largest ending that fits into `seconds`, or the smallest of all."""
    choice = Ending(min(FEWEST_PROMPTS, prompts), *_SIZES[-1])
    for ending in endings(prompts):
        if ending_seconds(ending, baseline, tuned, verified, metrics) <= seconds:
            return ending
    return choice
