"""`--budget` is kept: whole runs of `tune` on a clock that only calls and conversions move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.pipeline.load import LoadedPipeline
from halftime.records import LedgerRow, Session, Workload
from halftime.records.recipe import Choice, Plan
from halftime.records.verdict import Verdict
from halftime.testing import FakeClock, FakePipeline
from halftime.verbs.profile.run import ProfileSettings
from halftime.verbs.tune import bench, climber, measure, quality
from halftime.verbs.tune import run as tune_run
from halftime.verbs.tune.ending import Ending, ending_seconds, ending_within
from halftime.verbs.tune.options import Options
from halftime.verbs.tune.run import tuned

WORKLOAD = Workload(steps=2, width=8, height=8)
SPEEDS = {"vae-channels-last": 1.2, "vae-dtype": 1.3, "schedule-table": 1.1, "prompt-cache": 1.02}
BAD = "vae-dtype"
PICTURE = np.linspace(0, 1, 8 * 8 * 3).reshape(8, 8, 3)
COMPARING = 8.0  # seconds that a verdict takes


class Machine(FakeClock):
    """The clock of all twins, and how slow the machine is at a time."""

    def __init__(self, slow: Callable[[float], float]) -> None:
        super().__init__()
        self.slow = slow
        self.last: frozenset[str] = frozenset()  # the fixes of the last call

    def work(self, seconds: float) -> None:
        """What takes so long on the quiet machine."""
        self.advance(seconds * self.slow(self.now))

    def __deepcopy__(self, memo: object) -> Machine:
        return self


class Pipe(FakePipeline):  # type: ignore[misc]
    """One call takes a second, or less with fixes."""

    speed = 1.0
    names: frozenset[str] = frozenset()

    def __call__(
        self,
        prompt: str | list[str],
        num_inference_steps: int = 2,
        width: int = 8,
        height: int = 8,
        generator: object = None,
        output_type: str = "pil",
    ) -> SimpleNamespace:
        count = 1 if isinstance(prompt, str) else len(prompt)
        self._clock.work(count / self.speed)
        self._clock.last = self.names
        return SimpleNamespace(images=[PICTURE] * count)


class Played:
    """A machine, what a fix takes to be put on, and whether the planted one draws other things."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        slow: Callable[[float], float],
        setup: float,
        bad: bool,
    ) -> None:
        self.machine, self.setup, self.bad = Machine(slow), setup, bad
        self.pipeline = Pipe(self.machine)
        choices = [Choice(name=name) for name in SPEEDS]
        monkeypatch.setattr(climber, "candidates", lambda *_, **__: (choices, []))
        monkeypatch.setattr(bench, "applied", self.applied)
        monkeypatch.setattr(bench, "check_levels", lambda *_, **__: None)
        monkeypatch.setattr(measure, "measure_in_turns", self.sessions)
        monkeypatch.setattr(quality, "verdict_of", self.verdict)
        monkeypatch.setattr(tune_run, "check_repeats", lambda *_: None)

    @contextmanager
    def applied(self, pipeline: Pipe, plan: Plan, **_: object) -> Iterator[None]:
        self.machine.work(self.setup * len(plan.fixes))
        for choice in plan.fixes:
            pipeline.speed *= SPEEDS[choice.name]
        pipeline.names = frozenset(choice.name for choice in plan.fixes)
        yield

    def sessions(
        self,
        pipelines: list[LoadedPipeline],
        workload: Workload,
        settings: ProfileSettings,
        **_: object,
    ) -> list[Session]:
        begun = self.machine.now
        for _turn in range(1 + settings.warmup + settings.runs):
            for loaded in pipelines:
                loaded.pipeline(prompt=["a"])
        wall = (self.machine.now - begun) / (1 + settings.warmup + settings.runs) / len(pipelines)
        rows = (
            LedgerRow(stage="denoise", seconds=wall / 2, share=0.5),
            LedgerRow(stage="vae_decode", seconds=wall / 2, share=0.5),
        )
        environment = tune_run.this_environment("cpu")
        return [
            Session(wall_seconds=wall, ledger=rows, environment=environment, workload=workload)
            for _ in pipelines
        ]

    def verdict(self, reference: object, candidate: object, *_: object) -> Verdict:
        self.machine.work(COMPARING)
        differs = self.bad and BAD in self.machine.last
        return Verdict(
            verdict="different" if differs else "equivalent",
            reasons=(),
            baseline="a",
            candidate="b",
            pairs=len(candidate.pictures),  # type: ignore[attr-defined]
            margin=3.0,
            noise_floor={},
            floor_entries=(),
            per_class=(),
            worst_pairs=(),
            trips=(),
        )

    def tuning(self, budget: float) -> tune_run.Outcome:
        return tuned(
            LoadedPipeline(self.pipeline, "played", ()),
            WORKLOAD,
            Options(budget=budget),
            clock=lambda: self.machine.now,
        )


def steady(now: float) -> float:
    return 1.0


def slows_down(now: float) -> float:
    return 1.0 if now < 60 else 2.0


@pytest.mark.parametrize(
    ("slow", "setup", "bad", "budget"),
    [
        (steady, 0.0, False, 600.0),
        (steady, 0.0, False, 120.0),
        (slows_down, 0.0, False, 200.0),
        (steady, 20.0, False, 180.0),  # a conversion takes longer than its prior says
        (steady, 3.0, True, 200.0),  # the pictures differ, and bisection takes time
        (slows_down, 3.0, True, 300.0),
    ],
)
def test_the_last_measurement_ends_before_the_budget(
    slow: Callable[[float], float],
    setup: float,
    bad: bool,
    budget: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played(monkeypatch, slow, setup, bad)
    tuning = played.tuning(budget).tuning
    assert played.machine.now <= budget
    assert tuning.spent_seconds <= budget
    assert tuning.verdict == "equivalent"
    assert BAD not in {choice.name for choice in tuning.recipe.fixes} or not bad


def test_what_fits_is_all_of_it_where_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = Played(monkeypatch, steady, 0.0, False).tuning(900.0).tuning
    words = [(rung.fix, rung.kept, rung.why) for rung in tuning.ladder], tuning.notes
    assert tuning.prompts == 24
    assert {choice.name for choice in tuning.recipe.fixes} == set(SPEEDS), words
    assert tuning.notes == ()


@given(
    st.floats(1, 2000), st.floats(0.01, 20), st.floats(0.01, 20), st.integers(1, 60), st.booleans()
)
def test_an_ending_fits_or_is_the_smallest(
    seconds: float, baseline: float, tuned_seconds: float, prompts: int, verified: bool
) -> None:
    ending = ending_within(seconds, baseline, tuned_seconds, prompts, verified)
    fits = ending_seconds(ending, baseline, tuned_seconds, verified) <= seconds
    assert fits or ending == Ending(min(6, prompts), 1, 2, 0)
    assert ending.prompts <= prompts
