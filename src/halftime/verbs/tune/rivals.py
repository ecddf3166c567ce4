"""Two stacks that exclude each other, compared as wholes.

On a CPU a runtime takes the denoiser early, and each cache, compilation and quantisation is then
less than it alone; together they may be more. So they are stacked once without runtimes, and the
two plans are called in turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from halftime.base import units
from halftime.base.stats import median
from halftime.fix.table import FIXES
from halftime.records.recipe import Choice
from halftime.records.tune import Trial
from halftime.verbs.tune.candidates import clash, described
from halftime.verbs.tune.decide import Choices, gain, pays, stacked
from halftime.verbs.tune.search import Climb


def takes_over(choice: Choice) -> bool:
    """Whether a fix replaces the denoiser's own code by something that no other can change."""
    return FIXES[choice.name].is_runtime or choice.name == "loop-graph"


def barred(plan: Choices, choices: Sequence[Choice]) -> list[Choice]:
    """What the plan's runtimes exclude."""
    runtimes = [choice for choice in plan if takes_over(choice)]
    return [choice for choice in choices if any(clash(runtime, choice) for runtime in runtimes)]


def compare(search: Climb, rival: Climb, trial: Trial) -> None:
    """The faster stack is the plan; the rungs of both stay, with what came of them."""
    if pays(trial):
        words = f"a stack without runtimes was {units.ratio(gain(trial).value)} as fast"
        ladder = [*_let_go(search, words).ladder, *rival.ladder]
        search.plan, search.speedup = rival.plan, stacked(trial).value
        search.seconds = median(trial.candidate)
    else:
        words = trial.failure or f"{units.ratio(gain(trial).value)} of the speed with runtimes"
        ladder = [*search.ladder, *_let_go(rival, f"the stack without them: {words}").ladder]
    search.ladder = ladder


def _let_go(climb: Climb, words: str) -> Climb:
    """All that it had kept is dropped."""
    rungs = [
        msgspec.structs.replace(rung, kept=False, why=f"{rung.why}; dropped: {words}")
        if rung.kept
        else rung
        for rung in climb.ladder
    ]
    return Climb((), rungs)


def stack_words(plan: Choices) -> str:
    """'denoiser-compile (region: blocks) + step-cache (kind: mag)'."""
    return " + ".join(map(described, plan)) or "nothing"
