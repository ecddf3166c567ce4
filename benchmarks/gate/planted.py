"""Which slowdowns does `gate` find, how often is it wrong, and what do fixed thresholds do?

Regime: the bundled model. First `--cohorts` cohorts of equal processes are measured as the gate
measures them, beside each number of `--busy` processes. Runs of the gate are then drawn from them:
cohorts in a random order, as many as fit into each budget at the pace that was measured, who is
base and who is candidate dealt anew, and the candidate's calls longer by the planted share of a
call, in a random stage. Since equal processes can be dealt in many ways, a few dozen cohorts stand
for thousands of runs. Last, `--real` whole runs for each slowdown, with a real delay in the
candidate. Ceiling: no test finds a slowdown that is smaller than what it is sure of at the budget's
end; a single run of fixed thresholds compares one process of either side from different hours.

    python -m benchmarks.gate.planted --out benchmarks/results/gate_planted.json

It wants a quiet machine for hours: 24 cohorts take about 15 minutes on two quiet cores, and longer
beside busy processes; a real run takes up to its budget of 5 minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import median
from halftime.records import Workload
from halftime.records.gate import GateCohort, GateProcess
from halftime.verbs.gate.process import SideProcess
from halftime.verbs.gate.run import ALPHA, BUDGET, MARGIN, Collected, GateBench, GateSettings, gate
from halftime.verbs.gate.sequential import decide, shift_estimate
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.stages import culprit, log_cohort, stage_cohorts

ROOT = Path(__file__).parents[2]
MODEL = "benchmarks.gate.slowed:pipeline"
SLOWDOWNS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10, 0.20)
STAGES = ("encode_prompt", "denoise", "vae_decode")
BUSY = (0, 1, 2, 4, 6)
BUDGETS = (BUDGET, 900.0, 1500.0)
WORKLOAD = Workload(guidance=bundled.GUIDANCE)


class Pool(NamedTuple):
    """Equal processes, measured as the gate does, and at what pace."""

    cohorts: tuple[GateCohort, ...]
    cohort_seconds: float

    @property
    def wall(self) -> float:
        return median([s for p in self.processes() for s in p.wall_seconds])

    def processes(self) -> list[GateProcess]:
        return [process for cohort in self.cohorts for process in cohort.processes]


class Ended(NamedTuple):
    """How one run of the gate ended."""

    word: str
    cohorts: int
    stage: str  # that it named


# ---- measuring


def side(label: str, stage: str = "vae_decode", seconds: float = 0.0) -> Side:
    """The slowed model in this checkout."""
    calls = 2 if stage == "encode_prompt" else WORKLOAD.steps if stage == "denoise" else 1
    return Side(
        label,
        folder=ROOT,
        paths=(str(ROOT), *(path for path in sys.path if path)),
        variables={
            "HALFTIME_PLANTED": f"{stage}:{seconds}",
            "HALFTIME_PLANTED_CALLS": str(calls),
            "HF_HUB_OFFLINE": "1",
        },
    )


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def pool(count: int) -> Pool:
    """`count` cohorts of equal sides."""
    begun = time.monotonic()
    bench = GateBench(
        {"base": side("base"), "candidate": side("candidate")},
        GateSettings(pictures=0),
        lambda version: SideProcess(version, MODEL, WORKLOAD),
        lambda: 3600.0,
        lambda task, finished, total: None,
        random.Random(0),
    )
    collected = Collected()
    for number in range(count):
        bench.cohort(collected)
        print(f"  cohort {number + 1} of {count}, {time.monotonic() - begun:.0f} s")
    return Pool(tuple(collected.cohorts), (time.monotonic() - begun) / count)


def stored_pool(load: int, cohorts: int, folder: Path | None) -> Pool:
    """Measured beside so many busy processes, or read back where that was done before."""
    file = folder / f"busy_{load}.json" if folder else None
    if file and file.exists():
        return msgspec.json.decode(file.read_bytes(), type=Pool)
    with busy(load):
        measured = pool(cohorts)
    if file:
        file.write_bytes(msgspec.json.encode(measured))
    return measured


# ---- runs that are drawn from the pool


def slowed(cohort: GateCohort, stage: str, seconds: float, rng: random.Random) -> GateCohort:
    """The same processes, dealt anew; the candidates' calls are longer."""
    sides = [process.side for process in cohort.processes]
    rng.shuffle(sides)
    return GateCohort(
        processes=tuple(
            _slower(msgspec.structs.replace(process, side=name), stage, seconds)
            if name == "candidate"
            else msgspec.structs.replace(process, side=name)
            for process, name in zip(cohort.processes, sides, strict=True)
        )
    )


def _slower(process: GateProcess, stage: str, seconds: float) -> GateProcess:
    stages = dict(process.stage_seconds)
    stages[stage] = tuple(value + seconds for value in stages[stage])
    walls = tuple(value + seconds for value in process.wall_seconds)
    return msgspec.structs.replace(process, wall_seconds=walls, stage_seconds=stages)


def one_run(source: Pool, stage: str, slowdown: float, budget: float, rng: random.Random) -> Ended:
    """A run of the gate within its budget; the first two processes' start is paid, too."""
    most = max(1, int((budget - source.cohort_seconds / 3) / source.cohort_seconds))
    drawn = rng.sample(source.cohorts, min(most, len(source.cohorts)))
    cohorts: list[GateCohort] = []
    for cohort in drawn:
        cohorts.append(slowed(cohort, stage, slowdown * source.wall, rng))
        word = decide([log_cohort(c) for c in cohorts], MARGIN, ALPHA).word
        if word:
            return Ended(word, len(cohorts), moved_most(cohorts, source.wall))
    return Ended("undecided", len(cohorts), "")


def moved_most(cohorts: Sequence[GateCohort], wall: float) -> str:
    """The stage that the gate would name: `culprit`, without its intervals, which take long."""
    shifts = {
        name: shift_estimate(stage_cohorts(name, cohorts, wall))
        for name in cohorts[0].processes[0].stage_seconds
    }
    stage = max(shifts, key=shifts.__getitem__)
    return stage if shifts[stage] > 0 else ""


def fixed(share: float, tries: int) -> Callable[[Pool, float, random.Random], bool]:
    """Slower where all of so many single runs exceed one stored base by the share."""

    def slower(source: Pool, slowdown: float, rng: random.Random) -> bool:
        base, *runs = rng.sample([median(p.wall_seconds) for p in source.processes()], 1 + tries)
        return all(run * (1 + slowdown) > base * (1 + share) for run in runs)

    return slower


def rolling(share: float, window: int) -> Callable[[Pool, float, random.Random], bool]:
    """Slower than the median of the last runs by the share."""

    def slower(source: Pool, slowdown: float, rng: random.Random) -> bool:
        run, *before = rng.sample([median(p.wall_seconds) for p in source.processes()], 1 + window)
        return run * (1 + slowdown) > median(before) * (1 + share)

    return slower


OTHERS = {
    "25 % and six retries": fixed(0.25, 7),
    "20 % fixed": fixed(0.20, 1),
    "8 % against the median of five": rolling(0.08, 5),
    "pytest-benchmark, median:5%": fixed(0.05, 1),
}


def curve(source: Pool, runs: int, load: int, budget: float) -> Iterator[dict[str, object]]:
    """A row for each slowdown: the gate beside the fixed thresholds."""
    for slowdown in SLOWDOWNS:
        rng = random.Random(f"{load} {slowdown} {budget}")
        ended = [
            (stage := rng.choice(STAGES), one_run(source, stage, slowdown, budget, rng))
            for _ in range(runs)
        ]
        slower = [(stage, run) for stage, run in ended if run.word == "slower"]
        yield {
            "busy": load,
            "budget_seconds": budget,
            "slowdown_share": slowdown,
            "runs": runs,
            "slower_share": len(slower) / runs,
            "pass_share": _share([run.word in ("pass", "faster") for _, run in ended]),
            "undecided_share": _share([run.word == "undecided" for _, run in ended]),
            "median_cohorts": median([run.cohorts for _, run in ended]),
            "stage_right_share": _share([run.stage == stage for stage, run in slower]),
            **{
                f"{name}_share": _share([rule(source, slowdown, rng) for _ in range(runs)])
                for name, rule in OTHERS.items()
            },
        }


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


# ---- whole runs


def real(count: int, wall: float) -> Iterator[dict[str, object]]:
    """Whole runs of the gate with a real delay in a random stage."""
    rng = random.Random(1)
    for slowdown in SLOWDOWNS:
        for _ in range(count):
            stage = rng.choice(STAGES)
            candidate = side("candidate", stage, slowdown * wall)
            record = gate(MODEL, side("base"), candidate, WORKLOAD, GateSettings(pictures=0))
            named = culprit(record.stages)
            row = {
                "slowdown_share": slowdown,
                "stage": stage,
                "verdict": record.verdict,
                "ratio": record.ratio,
                "low_ratio": record.low,
                "high_ratio": record.high,
                "named": named.stage if named and record.speed == "slower" else "",
                "cohorts": len(record.cohorts),
                "spent_seconds": record.spent_seconds,
            }
            print(row)
            yield row


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--cohorts", type=int, default=24, help="measured beside each load")
    frame.parser.add_argument("--runs", type=int, default=1000, help="drawn for each slowdown")
    frame.parser.add_argument("--real", type=int, default=3, help="whole runs for each slowdown")
    frame.parser.add_argument("--pools", type=Path, help="a folder that keeps what was measured")
    frame.parser.add_argument("--busy", type=int, nargs="*", default=BUSY, help="busy processes")
    frame.parser.add_argument("--budgets", type=float, nargs="*", default=BUDGETS, help="seconds")
    options = frame.parse()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    rows: list[dict[str, object]] = []
    pools: dict[int, Pool] = {}
    for load in options.busy:
        print(f"beside {load} busy processes")
        pools[load] = stored_pool(load, options.cohorts, options.pools)
        for budget in options.budgets:
            rows += curve(pools[load], options.runs, load, budget)
            for row in rows[-len(SLOWDOWNS) :]:
                print(row)
    quiet = pools[min(pools)]
    frame.write(
        {
            "rows": rows,
            "whole_runs": list(real(options.real, quiet.wall)),
            "pools": [
                {
                    "busy": load,
                    "cohorts": len(source.cohorts),
                    "cohort_seconds": source.cohort_seconds,
                    "wall_seconds": source.wall,
                    "process_medians_seconds": [median(p.wall_seconds) for p in source.processes()],
                }
                for load, source in pools.items()
            ],
        }
    )


if __name__ == "__main__":
    main()
