"""The whole gate on simulated processes."""

from __future__ import annotations

import random

import pytest

from gate_machine import CANDIDATE, Machine
from halftime.base.errors import BadInput, HalftimeError
from halftime.records import Workload
from halftime.verbs.gate.compare import WAITS
from halftime.verbs.gate.process import NotInTime
from halftime.verbs.gate.run import GateSettings, gate, pictures_in_time, rounds_worth
from halftime.verbs.gate.sides import Side


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


def test_what_fails_to_be_counted_is_no_pass() -> None:
    record = Machine(uncountable="RuntimeError: no").gate(exact=True)
    assert record.verdict == "undecided"
    assert "waits in the loop, which could be counted before and not now" in record.would_decide
    assert Machine(uncountable="RuntimeError: no").gate(exact=True, allowed=(WAITS,)).verdict == (
        "pass"
    )


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
