"""The climb over played-back timings: order, rivals, budget, goal, and two laws."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from halftime.fix.table import FIXES
from halftime.pipeline.device import this_environment
from halftime.records import LedgerRow, Session, Workload
from halftime.records.priors import predicted
from halftime.records.recipe import Choice
from halftime.records.tune import Trial
from halftime.testing import FakeClock
from halftime.verbs.tune.candidates import combine, conflict_free
from halftime.verbs.tune.decide import Budget, Goal, stacked
from halftime.verbs.tune.search import Climb, Tools, climb

SESSION = Session(
    wall_seconds=1.0,
    ledger=(
        LedgerRow(stage="encode_prompt", seconds=0.05, share=0.05),
        LedgerRow(
            stage="denoise",
            seconds=0.7,
            share=0.7,
            parts=(
                LedgerRow(stage="denoiser", seconds=0.6, share=0.6),
                LedgerRow(stage="scheduler", seconds=0.06, share=0.06),
                LedgerRow(stage="glue", seconds=0.04, share=0.04),
            ),
        ),
        LedgerRow(stage="vae_decode", seconds=0.25, share=0.25),
    ),
    environment=this_environment(),
    workload=Workload(),
)
OPENVINO = Choice(name="openvino", settings={"components": ["denoiser"]})
OPENVINO_VAE = Choice(name="openvino", settings={"components": ["vae"]})
LOOP = Choice(name="loop-graph", settings={"backend": "openvino"})
COMPILE, VAE_DTYPE, TABLE = (
    Choice(name="denoiser-compile"),
    Choice(name="vae-dtype"),
    Choice(name="schedule-table"),
)
EVERY = [
    Choice(name=name, settings=s)
    for name in FIXES
    if name != "solver-steps"
    for s in FIXES[name].proposals
]

Choices = tuple[Choice, ...]


def name_of(choice: Choice) -> str:
    return f"{choice.name} {choice.settings}"


class Played:
    """Timings by plan: each fix multiplies the seconds of a call; a trial costs `seconds` on the
    clock."""

    def __init__(
        self, speeds: Mapping[str, float], seconds: float = 10.0, budget: float = 1e6
    ) -> None:
        self.clock, self.speeds, self.cost = FakeClock(), speeds, seconds
        self.budget = Budget(budget, lambda: self.clock.now)
        self.tried: list[Choices] = []

    def seconds(self, plan: Choices) -> float:
        total = 1.0
        for choice in plan:
            total /= self.speeds.get(choice.name, self.speeds.get(name_of(choice), 1.0))
        return total

    def measure(self, incumbent: Choices, candidate: Choices) -> Trial:
        self.clock.advance(self.cost)
        self.tried.append(candidate)
        drift = [1.0, 1.2, 0.9, 1.4, 1.1, 1.0, 1.3]
        rows = {
            name: tuple(self.seconds(plan) * d for d in drift)
            for name, plan in (("baseline", ()), ("incumbent", incumbent), ("candidate", candidate))
        }
        return Trial(incumbent_plan=incumbent, candidate_plan=candidate, **rows)

    def tools(self, goal: Goal | None = None) -> Tools:
        return Tools(
            measure=self.measure,
            predict=lambda plan: predicted(SESSION, plan),
            is_measured=lambda incumbent, plan: False,
            budget=self.budget,
            goal=goal or Goal(),
            baseline_seconds=1.0,
        )


def names(plan: Choices) -> set[str]:
    return {choice.name for choice in plan}


def test_the_most_promising_comes_first_and_what_pays_stays() -> None:
    played = Played({"openvino": 1.6, "vae-dtype": 1.1, "schedule-table": 0.98})
    climbed = climb(Climb(), [TABLE, VAE_DTYPE, OPENVINO], played.tools())
    assert played.tried[0] == (OPENVINO,)
    assert names(climbed.plan) == {"openvino", "vae-dtype"}
    dropped = next(rung for rung in climbed.ladder if rung.fix == "schedule-table")
    assert not dropped.kept
    assert dropped.observed is not None
    assert "slower" in dropped.why


def test_a_better_rival_replaces_what_stood() -> None:
    played = Played({"loop-graph": 1.5, "openvino": 2.0})
    climbed = climb(Climb(), [LOOP, OPENVINO], played.tools())
    assert names(climbed.plan) == {"openvino"}
    lost = next(rung for rung in climbed.ladder if rung.fix == "loop-graph")
    assert not lost.kept
    assert "replaced by openvino" in lost.why


def test_a_rival_of_which_little_is_expected_costs_no_trial() -> None:
    played = Played({"loop-graph": 2.0})
    climbed = climb(Climb(), [LOOP, Choice(name="denoiser-channels-last")], played.tools())
    assert played.tried == [(LOOP,)]
    assert "more is expected" in climbed.ladder[1].why


def test_a_runtime_takes_one_more_component_or_gives_one_up() -> None:
    plan, gone = combine((OPENVINO,), OPENVINO_VAE)
    assert plan[0].settings == {"components": ["denoiser", "vae"]}
    assert gone == ()
    smaller, gone = combine(plan, LOOP)
    assert [choice.name for choice in smaller] == ["openvino", "loop-graph"]
    assert smaller[0].settings == {"components": ["vae"]}
    assert gone == plan


def test_a_compiled_denoiser_is_compiled_by_blocks_beside_a_cache_that_needs_it() -> None:
    cache = Choice(name="step-cache", settings={"kind": "mag"})
    plan, replaced = combine((COMPILE,), cache)
    assert plan == (Choice(name="denoiser-compile", settings={"region": "blocks"}), cache)
    assert replaced == (COMPILE,)
    inside = Choice(name="step-cache", settings={"kind": "taylorseer"})
    assert combine((COMPILE,), inside)[0] == (inside,)


def test_the_climb_stops_at_the_goal() -> None:
    played = Played({"openvino": 2.5, "vae-dtype": 1.1})
    climbed = climb(Climb(), [OPENVINO, VAE_DTYPE], played.tools(Goal(speedup=2.0)))
    assert len(played.tried) == 1
    assert "goal" in climbed.stopped
    assert climbed.ladder[-1].observed is None


def test_the_climb_stops_at_the_budget_and_says_what_it_left() -> None:
    played = Played({"openvino": 2.0, "vae-dtype": 1.1}, seconds=100.0, budget=120.0)
    climbed = climb(Climb(), [OPENVINO, VAE_DTYPE, TABLE], played.tools())
    assert len(played.tried) == 1
    assert "no time left" in climbed.ladder[-1].why
    assert climbed.stopped == "the budget was spent"


def test_what_was_measured_before_needs_no_time() -> None:
    played = Played({"openvino": 2.0}, budget=1.0)
    tools = played.tools()
    resumed = Tools(**{**vars(tools), "is_measured": lambda incumbent, plan: True})
    assert names(climb(Climb(), [OPENVINO], resumed).plan) == {"openvino"}


@given(
    st.lists(st.sampled_from(EVERY), unique_by=name_of, max_size=12),
    st.dictionaries(st.sampled_from(sorted(FIXES)), st.floats(0.5, 3.0)),
)
def test_what_is_kept_has_no_conflict_and_is_not_slower_than_the_baseline(
    candidates: list[Choice], speeds: dict[str, float]
) -> None:
    played = Played(speeds)
    climbed = climb(Climb(), candidates, played.tools())
    assert conflict_free(climbed.plan)
    assert climbed.speedup >= 1.0
    assert stacked(played.measure((), climbed.plan)).value >= 0.999
    assert {rung.fix for rung in climbed.ladder if rung.kept} == names(climbed.plan)


@given(st.lists(st.sampled_from(EVERY), max_size=8))
def test_one_more_fix_never_makes_a_conflict(choices: list[Choice]) -> None:
    plan: Choices = ()
    for choice in choices:
        plan, _ = combine(plan, choice)
        assert conflict_free(plan)


def test_predictions_never_pass_amdahls_bound() -> None:
    for choice in EVERY:
        bound = FIXES[choice.name].ceiling(SESSION)
        if bound is not None and choice.name not in ("openvino", "onnxruntime", "loop-graph"):
            assert predicted(SESSION, (choice,)) <= bound + 1e-9
    assert predicted(SESSION, ()) == 1.0
