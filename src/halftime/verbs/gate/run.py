"""`gate`: cohorts of fresh processes in turns, until the test decides or the budget is spent."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress, silent
from halftime.base.stats import median
from halftime.base.units import seconds
from halftime.base.version import version
from halftime.records import Workload
from halftime.records.gate import (
    Acceptance,
    Gate,
    GateCohort,
    GateCounter,
    GateProcess,
    GateSide,
)
from halftime.records.verdict import Verdict
from halftime.verbs.gate import accept
from halftime.verbs.gate.compare import COUNTERS, compared, differences
from halftime.verbs.gate.conclude import GateEvidence, conclude
from halftime.verbs.gate.process import GateWorker, NotInTime, SideFailed, SideProcess
from halftime.verbs.gate.sequential import decide
from halftime.verbs.gate.sides import Side, check_version
from halftime.verbs.gate.stages import log_cohort
from halftime.verbs.gate.stored import StoredSide, check_stored
from halftime.verbs.gate.worker import WorkerOrder
from halftime.verbs.verify.floor import RERUN
from halftime.verbs.verify.metrics import require
from halftime.verbs.verify.pictures import read_folder
from halftime.verbs.verify.run import VerifySettings, verdict_of

MARGIN, ALPHA, BUDGET = 0.03, 0.01, 300.0
PROCESSES = 3  # a side and cohort; each cohort is worth at most C(6, 3) = 20 to one
FEWEST_ROUNDS, MOST_ROUNDS = 4, 12
FEWEST_PICTURES = 5  # below, verify decides nothing

Start = Callable[[Side], GateWorker]


@dataclass(frozen=True)
class GateSettings:
    """What is asked, and at what price."""

    margin: float = MARGIN
    alpha: float = ALPHA
    budget: float = BUDGET  # seconds
    processes: int = PROCESSES
    pictures: int = 12  # 0: none are compared
    exact: bool = False  # counters and pictures alone
    allowed: tuple[str, ...] = ()  # counters that may rise
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = (
            (0 < self.margin < 1, f"--slower is {self.margin:.3g}; above 0 and below 100 %, as 3%"),
            (
                0 < self.alpha <= 0.2,
                f"--alpha is {self.alpha:.3g}; above 0 and at most 20 %, as 1%",
            ),
            (self.budget > 0, f"--budget is {self.budget:g} s; above 0, as 5m"),
            (1 <= self.processes <= 8, f"--processes is {self.processes}; from 1 to 8 a side"),
            (
                self.pictures == 0 or self.pictures >= FEWEST_PICTURES,
                f"--pictures is {self.pictures}; 0 for none, or {FEWEST_PICTURES} and more",
            ),
            (
                set(self.allowed) <= set(COUNTERS),
                f"--allow names {', '.join(self.allowed)}; there are: {', '.join(COUNTERS)}",
            ),
        )
        for holds, sentence in checks:
            if not holds:
                raise BadInput(f"{sentence}.")


@dataclass
class Collected:
    """What the processes have said so far."""

    cohorts: list[GateCohort] = field(default_factory=list)
    first_calls: dict[str, list[float]] = field(
        default_factory=lambda: {"base": [], "candidate": []}
    )
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    counters: tuple[GateCounter, ...] = ()
    pictures: Verdict | None = None
    pictures_missing: str = ""  # why they were not compared, where they should have been
    notes: list[str] = field(default_factory=list)


def gate(
    model: str | None,
    base: Side,
    candidate: Side,
    workload: Workload,
    settings: GateSettings | None = None,
    *,
    start: Start | None = None,
    clock: Callable[[], float] = time.monotonic,
    acceptances: Sequence[Acceptance] = (),
    progress: Progress = silent,
) -> Gate:
    """Is `candidate` slower than `base`, does it wait more, are its pictures others?

    Both are run in fresh processes; `acceptances` are what may be worse. Raises HalftimeError where
    a side cannot be run, and MissingExtra where pictures cannot be compared here.
    """
    settings = settings or GateSettings()
    check_stored(base, model, workload, compared=not settings.exact or settings.pictures > 0)
    if settings.pictures:
        require()
    begun = clock()

    def process(side: Side) -> GateWorker:
        if side.stored is not None:
            return StoredSide(side.stored)
        return start(side) if start else SideProcess(side, model, workload)

    bench = GateBench(
        {"base": base, "candidate": candidate},
        settings,
        process,
        lambda: settings.budget - (clock() - begun),
        progress,
        random.Random(settings.seed),
        accept.speed_limits(acceptances, settings.margin),
    )
    collected = bench.collect()
    record = conclude(
        GateEvidence(
            cohorts=tuple(collected.cohorts),
            counters=collected.counters,
            pictures=collected.pictures,
            pictures_missing=collected.pictures_missing,
            differences=differences(
                collected.facts.get("base", {}), collected.facts.get("candidate", {})
            ),
            base=_described(base, collected, "base"),
            candidate=_described(candidate, collected, "candidate"),
            notes=tuple(collected.notes),
            spent=clock() - begun,
        ),
        settings.margin,
        settings.alpha,
        settings.budget,
        workload,
        exact=settings.exact,
        acceptances=acceptances,
    )
    return _stamped(record, model)


def _stamped(record: Gate, model: str | None) -> Gate:
    return msgspec.structs.replace(
        record,
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model or "bundled",
    )


def _described(side: Side, collected: Collected, name: str) -> GateSide:
    firsts = collected.first_calls[name]
    return GateSide(
        label=side.label,
        kind=side.kind,
        python=side.python,
        commit=side.commit,
        facts=collected.facts.get(name, {}),
        first_call_seconds=median(firsts) if firsts else None,
    )


@dataclass
class Seat:
    """A process with the side whose label it was dealt."""

    name: str
    worker: GateWorker
    walls: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)

    def record(self) -> GateProcess:
        """What it measured."""
        names = dict.fromkeys(stage for row in self.stages for stage in row)
        return GateProcess(
            side="base" if self.name == "base" else "candidate",
            wall_seconds=tuple(self.walls),
            stage_seconds={n: tuple(row.get(n, 0.0) for row in self.stages) for n in names},
        )


@dataclass
class GateBench:
    """Looks at one process of either side, then runs cohorts within the time that is left."""

    sides: dict[str, Side]
    settings: GateSettings
    start: Start
    left: Callable[[], float]
    progress: Progress
    rng: random.Random
    limits: Sequence[Acceptance] = ()  # of a slowdown that is accepted

    def collect(self) -> Collected:
        """Counters and pictures; then cohorts until the test has decided or the next would not
        fit."""
        collected = Collected()
        self._look_closer(collected)
        longest = 0.0
        while not self.settings.exact and not self._decided(collected):
            before = self.left()
            if before <= longest:
                break
            try:
                self.cohort(collected)
            except NotInTime as error:
                collected.notes.append(f"the budget ended while a cohort started: {error}")
                break
            longest = max(longest, before - self.left())
        return collected

    def _decided(self, collected: Collected) -> bool:
        cohorts, alpha = [log_cohort(cohort) for cohort in collected.cohorts], self.settings.alpha
        word = decide(cohorts, self.settings.margin, alpha).word
        return bool(word) and (word != "slower" or accept.is_settled(self.limits, cohorts, alpha))

    # ---- timing

    def cohort(self, collected: Collected) -> None:
        """One cohort: who is what is dealt, then all start at once and take turns."""
        number = len(collected.cohorts) + 1
        labels = ["base", "candidate"] * self.settings.processes
        self.rng.shuffle(labels)
        before = self.left()
        with self._seated(labels, f"cohort {number}: starting processes", collected) as seats:
            starting = (before - self.left()) / len(seats)
            self._take_turns(seats, starting, number)
            collected.cohorts.append(GateCohort(processes=tuple(seat.record() for seat in seats)))

    @contextmanager
    def _seated(
        self, labels: Sequence[str], task: str, collected: Collected
    ) -> Iterator[list[Seat]]:
        """A process for each label, all started at once, each after its first call."""
        with ExitStack() as stack:
            seats = []
            for label in labels:
                worker = self.start(self.sides[label])
                stack.callback(worker.end)
                seats.append(Seat(label, worker))
            for index, seat in enumerate(seats):
                self.progress(task, index, len(seats))
                first = seat.worker.ready(self.left())
                check_version(self.sides[seat.name], first.facts)
                collected.first_calls[seat.name].append(first.seconds)
                collected.facts.setdefault(seat.name, first.facts)
            yield seats

    def _take_turns(self, seats: Sequence[Seat], starting: float, number: int) -> None:
        warm = [seat.worker.ask(WorkerOrder(order="call")).seconds for seat in seats]
        rounds = rounds_worth(starting, median(warm))
        for index in range(rounds):
            if index >= FEWEST_ROUNDS and self.left() <= 0:
                break
            self.progress(f"cohort {number}: calls in turns", index, rounds)
            for seat in self.rng.sample(seats, len(seats)):
                answer = seat.worker.ask(WorkerOrder(order="call"))
                seat.walls.append(answer.seconds)
                seat.stages.append(answer.stages)

    # ---- what has no noise

    def _look_closer(self, collected: Collected) -> None:
        """Counters and pictures, from a process of either side that is timed no further: what it
        does here would make it unlike the others."""
        try:
            with self._seated(("base", "candidate"), "starting both versions", collected) as pair:
                if self.settings.pictures:
                    self._compare_pictures(pair, collected)
                self.progress("counting", 0, 1)
                base, candidate = (seat.worker.ask(WorkerOrder(order="count")) for seat in pair)
        except NotInTime as error:
            raise NotInTime(
                f"{error}, which is all of the budget: give --budget more time.", error.label
            ) from error
        collected.counters = compared(base, candidate, self.settings.margin, self.settings.allowed)

    def _compare_pictures(self, pair: Sequence[Seat], collected: Collected) -> None:
        self.progress("drawing the same prompts", 0, 1)
        call = max(seat.worker.ask(WorkerOrder(order="call")).seconds for seat in pair)
        count = pictures_in_time(
            self.settings.pictures, call, self.left(), alone=self.settings.exact
        )
        if count < FEWEST_PICTURES:
            collected.pictures_missing = (
                f"pictures were not compared: {FEWEST_PICTURES} a side, and some again for the "
                f"noise floor, do not fit into the budget at {seconds(call)} a call"
            )
            return
        if count < self.settings.pictures:
            collected.notes.append(
                f"{count} pictures a side instead of {self.settings.pictures}, for the budget."
            )
        collected.pictures = self._pictures(pair, count)

    def _pictures(self, pair: Sequence[Seat], count: int) -> Verdict:
        with TemporaryDirectory(prefix="halftime-gate-") as folder:
            base, candidate = (self._drawn(seat, Path(folder) / seat.name, count) for seat in pair)
            again = self._drawn(pair[0], Path(folder) / "again", FEWEST_PICTURES)
            self.progress("comparing pictures", 0, 1)
            return verdict_of(
                read_folder(base),
                read_folder(candidate),
                VerifySettings(floors={RERUN: read_folder(again)}),
            )

    def _drawn(self, seat: Seat, folder: Path, count: int) -> Path:
        try:
            seat.worker.ask(WorkerOrder(order="draw", folder=str(folder), pictures=count))
        except HalftimeError as error:
            raise SideFailed(
                f"{error} --pictures 0 gates without pictures.", self.sides[seat.name].label
            ) from error
        return folder


def pictures_in_time(most: int, call: float, left: float, *, alone: bool) -> int:
    """How many pictures a side may be drawn: with timing to follow, for half of what is left."""
    share = left if alone else left / 2
    return min(most, int((share / call - FEWEST_PICTURES) / 2)) if call > 0 else most


def rounds_worth(starting: float, call: float) -> int:
    """How many calls of one process are worth their time beside what a fresh one costs to start:
    the number that gives the smallest error for the time is the root of starting / call times the
    ratio of the variances within and between processes, about 2."""
    best = math.sqrt(2 * starting / call) if call > 0 else MOST_ROUNDS
    return min(MOST_ROUNDS, max(FEWEST_ROUNDS, round(best)))
