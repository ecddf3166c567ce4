"""When a number should not be trusted: say so, and name the next command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from halftime.base import units
from halftime.base.stats import median, spread
from halftime.records import Environment, LedgerRow
from halftime.records.session import UNEXPLAINED

FEWEST_RUNS = 3
WIDEST_SPREAD = 0.10
MOST_UNEXPLAINED = 0.02
STEEPEST_DRIFT = 0.15


def doubts(
    walls: Sequence[float],
    ledger: Sequence[LedgerRow],
    environment: Environment,
    *,
    traced: bool = False,
    neighbours: str = "",
) -> tuple[str, ...]:
    """One sentence for each reason to doubt a session.

    `walls` are the seconds of the steady runs, in the order in which they ran; `environment` was
    read before them, since our own threads raise the load. `neighbours` says whose work ran beside
    them.
    """
    return tuple(_doubts(walls, ledger, environment, traced, neighbours))


def _doubts(
    walls: Sequence[float],
    ledger: Sequence[LedgerRow],
    environment: Environment,
    traced: bool,
    neighbours: str,
) -> Iterator[str]:
    if len(walls) < FEWEST_RUNS:
        yield f"only {len(walls)} steady runs, too few to know the spread: run again with --runs 5."
    elif spread(walls) > WIDEST_SPREAD:
        yield (
            f"the runs differ widely (interquartile range {units.share(spread(walls))} of the "
            f"median): run again with --runs {2 * len(walls)} on a quiet machine."
        )
    if len(walls) >= 2 * FEWEST_RUNS and abs(drift := _drift(walls)) > STEEPEST_DRIFT:
        word = "slower" if drift > 0 else "faster"
        yield (
            f"the later half of the runs is {units.share(abs(drift))} {word} than the earlier one "
            "(heat, other load, or too little warm-up): run again with --warmup 3."
        )
    load = environment.load_average or 0.0
    if neighbours or load > 0.5 * environment.cores:
        passive = environment.settings.get("OMP_WAIT_POLICY", "").upper().startswith("PASSIVE")
        was = f"other work was running (load average {load:.1f} on {environment.cores} cores)"
        yield (
            f"{neighbours or was}: "
            f"run again on a quiet machine{'' if passive else ', or with OMP_WAIT_POLICY=PASSIVE'}."
        )
    unexplained = next((row for row in ledger if row.stage == UNEXPLAINED), None)
    if unexplained and abs(unexplained.share) > MOST_UNEXPLAINED:
        yield (
            f"{units.share(unexplained.share)} of the wall clock is unexplained: "
            "run again with --trace DIR and look at it in Perfetto."
        )
    if traced:
        yield (
            "a profiler was tracing during the timed runs, which slows them: end it and run again."
        )


def _drift(walls: Sequence[float]) -> float:
    half = len(walls) // 2
    return median(walls[half:]) / median(walls[:half]) - 1
