"""The whole gate on simulated processes: their clock is a number, so nothing here waits."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from halftime.base.errors import BadInput, HalftimeError
from halftime.records import Workload
from halftime.records.gate import Gate
from halftime.verbs.gate.compare import COUNTERS, WAITS
from halftime.verbs.gate.process import NotInTime
from halftime.verbs.gate.run import GateSettings, gate, pictures_in_time, rounds_worth
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder
from halftime.verbs.verify.pictures import Picture, PictureSet, write_folder

BASE, CANDIDATE = Side("before"), Side("now")
STAGES = {"encode_prompt": 0.01, "denoise": 0.14, "vae_decode": 0.05}


@dataclass
class Machine:
    """Two versions on one machine whose processes differ; `slower` adds seconds to a stage."""

    slower: dict[str, float] = field(default_factory=dict)
    waits: int = 0  # more of the candidate's
    grey: int = 0  # the candidate's pictures are brighter by so much
    between: float = 0.01
    starting: float = 8.0
    call: float = 1.0  # all stages are so many times as long
    draws: bool = True
    versions: dict[str, str] = field(default_factory=dict)  # of the candidate
    now: float = 0.0
    alive: int = 0
    most_alive: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def start(self, side: Side) -> SimulatedWorker:
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        return SimulatedWorker(self, side.label == CANDIDATE.label)

    def gate(self, **settings) -> Gate:
        chosen = GateSettings(**{"pictures": 0, "seed": 1, **settings})
        return gate(
            None, BASE, CANDIDATE, Workload(), chosen, start=self.start, clock=lambda: self.now
        )


class SimulatedWorker:
    def __init__(self, machine: Machine, candidate: bool) -> None:
        self._machine, self._candidate = machine, candidate
        self._luck = 1 + machine.rng.gauss(0, machine.between)

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        self._machine.now += self._machine.starting
        if seconds is not None and self._machine.starting > seconds:
            raise NotInTime("a process was not ready")
        facts = self._machine.versions if self._candidate else {}
        return WorkerAnswer(seconds=2.0, facts={"versions.torch": "2.13", **facts})

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        return {"call": self._call, "count": self._count, "draw": self._draw}[order.order](order)

    def end(self) -> None:
        self._machine.alive -= 1

    def _call(self, order: WorkerOrder) -> WorkerAnswer:
        machine = self._machine
        more = machine.slower if self._candidate else {}
        noise = self._luck * (1 + machine.rng.expovariate(1 / 0.02))
        stages = {n: machine.call * (s * noise + more.get(n, 0.0)) for n, s in STAGES.items()}
        machine.now += sum(stages.values())
        return WorkerAnswer(seconds=sum(stages.values()), stages=stages)

    def _count(self, order: WorkerOrder) -> WorkerAnswer:
        counts = dict.fromkeys(COUNTERS, 100.0)
        lines = ("mine.py:7: x.item() (item, 4 times)",) if self._candidate else ()
        more = self._machine.waits if self._candidate else 0
        return WorkerAnswer(counts={**counts, WAITS: 100.0 + more}, details={WAITS: lines})

    def _draw(self, order: WorkerOrder) -> WorkerAnswer:
        if not self._machine.draws:
            raise HalftimeError("this pipeline gave a waveform.")
        bright = self._machine.grey if self._candidate else 0
        pictures = [
            Picture(f"{n}", np.random.default_rng(n).integers(0, 150, (64, 64, 3)).astype("u1"))
            for n in range(order.pictures)
        ]
        brighter = [Picture(p.name, p.pixels + np.uint8(bright)) for p in pictures]
        write_folder(Path(order.folder), PictureSet("simulated", tuple(brighter)))
        return WorkerAnswer(seconds=1.0)


def test_equal_versions_pass_within_the_budget() -> None:
    machine = Machine()
    record = machine.gate(budget=600)
    assert (record.verdict, record.speed) == ("pass", "pass")
    assert record.low is not None
    assert record.high is not None
    assert record.low <= 1 <= record.high < 1.03
    assert record.spent_seconds < 600
    assert (machine.alive, machine.most_alive) == (0, 6)


def test_slower_names_the_stage_its_bounds_and_the_likely_cause() -> None:
    machine = Machine(
        slower={"vae_decode": 0.041}, versions={"versions.numpy": "9", "vae.dtype": "float32"}
    )
    record = machine.gate(budget=600)
    assert record.verdict == "slower"
    (reason,) = record.reasons
    assert reason.startswith("slower, wrong in at most 1 % of runs: vae_decode +4")
    assert reason.endswith("], the rest unchanged")
    vae = next(stage for stage in record.stages if stage.stage == "vae_decode")
    assert vae.low_seconds < 0.041 < vae.high_seconds
    assert vae.moved
    assert [row.name for row in record.differences] == ["vae.dtype", "versions.numpy"]


def test_faster_is_said() -> None:
    record = Machine(slower={"denoise": -0.03}).gate(budget=600)
    assert record.verdict == "faster"
    assert "denoise -3" in record.reasons[0]


def test_one_more_wait_is_worse_though_no_clock_shows_it() -> None:
    machine = Machine(waits=1)
    record = machine.gate(exact=True)
    assert (record.verdict, record.speed, record.ratio) == ("worse", "not measured", None)
    assert "waits in the loop: 100 before, 101 now: mine.py:7" in record.reasons[1]
    assert machine.most_alive == 2
    assert Machine(waits=1).gate(exact=True, allowed=(WAITS,)).verdict == "pass"


@pytest.mark.parametrize(("grey", "verdict"), [(0, "pass"), (60, "worse")])
def test_pictures_gate(grey: int, verdict: str) -> None:
    record = Machine(grey=grey).gate(exact=True, pictures=5)
    assert record.verdict == verdict
    assert record.pictures is not None
    assert record.pictures.pairs == 5


def test_a_noisy_machine_is_undecided_and_says_what_would_decide() -> None:
    record = Machine(between=0.1).gate(budget=120)
    assert record.verdict == "undecided"
    assert record.would_decide
    assert record.reasons == ()


def test_pictures_that_do_not_fit_leave_it_undecided() -> None:
    record = Machine(call=100).gate(exact=True, pictures=12, budget=200)
    assert record.verdict == "undecided"
    assert "--pictures 0" in record.would_decide
    assert "were not compared" in record.notes[0]


def test_fewer_pictures_where_fewer_fit() -> None:
    assert pictures_in_time(12, 1.0, 100, alone=True) == 12
    assert pictures_in_time(12, 1.0, 40, alone=False) == 7
    assert pictures_in_time(12, 30.0, 60, alone=True) < 5


def test_a_pipeline_without_pictures_is_refused_before_anything_is_timed() -> None:
    machine = Machine(draws=False)
    with pytest.raises(HalftimeError, match=r"gave a waveform\. --pictures 0 gates without"):
        machine.gate(pictures=5)
    assert (machine.alive, machine.most_alive) == (0, 2)


def test_a_budget_that_starts_nothing_is_refused() -> None:
    machine = Machine(starting=50)
    with pytest.raises(NotInTime, match="give --budget more time"):
        machine.gate(budget=20)
    assert machine.alive == 0


def test_a_budget_that_ends_while_the_first_cohort_starts() -> None:
    record = Machine(starting=10).gate(budget=40)
    assert (record.verdict, record.cohorts) == ("undecided", ())
    assert "--budget 2m" in record.would_decide
    assert "the budget ended while a cohort started" in record.notes[0]


def test_a_requirement_that_something_shadows_is_refused() -> None:
    base = Side("torch==2.12.*", "requirement")
    machine = Machine()
    with pytest.raises(HalftimeError, match=r"its process runs torch 2\.13"):
        gate(None, base, CANDIDATE, Workload(), GateSettings(pictures=0), start=machine.start)


@pytest.mark.parametrize(
    "settings",
    [
        {"margin": 0.0},
        {"margin": 1.5},
        {"alpha": 0.5},
        {"budget": 0},
        {"processes": 0},
        {"pictures": 3},
        {"allowed": ("wait",)},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    (name,) = settings
    option = {"margin": "slower", "allowed": "allow"}.get(name, name)
    with pytest.raises(BadInput, match=f"--{option}"):
        GateSettings(**settings)


@pytest.mark.parametrize(
    ("starting", "call", "rounds"), [(8, 0.2, 9), (8, 60, 4), (8, 0.01, 12), (0, 0.2, 4)]
)
def test_rounds_that_are_worth_it(starting: float, call: float, rounds: int) -> None:
    assert rounds_worth(starting, call) == rounds


def test_false_alarms_of_the_whole_gate() -> None:
    """Equal versions, processes 3 % apart: who is dealt what decides nothing."""
    alarms = 0
    for seed in range(20):
        machine = Machine(between=0.03, rng=random.Random(seed))
        alarms += machine.gate(budget=150, seed=seed).speed == "slower"
    assert alarms <= 2  # of 0.2 at most in the mean; more than 2 has a probability of 0.1 %
