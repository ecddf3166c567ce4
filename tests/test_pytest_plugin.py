"""The pytest fixtures, as a maintainer's own tests would use them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from halftime.base.lines import append_lines
from halftime.records import Workload
from halftime.records.audit import Audit
from halftime.records.gate import Gate, GateSide
from halftime.verbs.gate import run as gating  # loaded before pytester looks at what is loaded
from halftime.verbs.gate.accept import accept
from tiny_pipelines import PIPELINES

pytest_plugins = ["pytester"]


def test_a_loop_that_never_waits_passes(assert_no_syncs_in_loop: Callable[..., Audit]) -> None:
    tiny = PIPELINES["sdxl"]
    assert assert_no_syncs_in_loop(tiny.build(), **tiny.arguments(4)).capturable


def test_a_loop_that_waits_fails_by_line(assert_no_syncs_in_loop: Callable[..., Audit]) -> None:
    tiny = PIPELINES["cogvideox"]
    with pytest.raises(AssertionError, match=r"scheduling_ddim_cogvideox\.py:\d+ waits"):
        assert_no_syncs_in_loop(tiny.build(), **tiny.arguments(4))


# ---- halftime_gate, in a user's repository

USERS = """
    import pytest

    def make():
        raise AssertionError("only other processes call it")
"""


@pytest.fixture
def users(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run a user's test file in a run of pytest of its own; the gate's verdict is decided."""
    calls: list[tuple[object, ...]] = []

    def run(body: str, verdict: str = "pass", *words: str) -> pytest.RunResult:
        def gate(model, base, candidate, workload, settings, *, acceptances=()) -> Gate:
            calls.append((model, base.label, workload, settings, acceptances))
            return Gate(
                verdict=verdict,
                reasons=("slower, accepted: a cache",),
                objections=("vae_decode +41 ms",) if verdict in ("slower", "worse") else (),
                would_decide="a quieter machine",
                base=GateSide(label=base.label, kind=base.kind),
                candidate=GateSide(label="here", kind="here"),
                margin=settings.margin,
                alpha=settings.alpha,
                budget_seconds=settings.budget,
                spent_seconds=1.0,
                workload=workload,
            )

        monkeypatch.setattr(gating, "gate", gate)
        pytester.makepyfile(test_mine=USERS + body)
        plugin = () if "halftime" in _entry_points() else ("-p", "halftime.pytest_plugin")
        words = ("--strict-markers", "-p", "no:cacheprovider", "-rs", *plugin, *words)
        return pytester.runpytest_inprocess(*words)

    run.calls = calls  # type: ignore[attr-defined]
    return run


def _entry_points() -> set[str]:
    return {point.name for point in metadata.entry_points(group="pytest11")}


MARKED = """
    @pytest.mark.halftime_gate(make, against="baseline", steps=4, slower="5%")
    def test_no_worse(halftime_gate):
        assert halftime_gate(steps=3).margin == 0.05
"""


@pytest.mark.parametrize(
    ("verdict", "outcome", "says"),
    [
        ("pass", "passed", ""),
        ("faster", "passed", ""),
        ("accepted", "passed", "*here against baseline: slower, accepted: a c*"),
        ("slower", "failed", "*AssertionError: here against baseline: slower*"),
        ("worse", "failed", "*vae_decode +41 ms*"),
        ("undecided", "skipped", "*undecided; what would decide: a quieter machine*"),
    ],
)
def test_a_verdict_becomes_an_outcome(users, verdict: str, outcome: str, says: str) -> None:
    result = users(MARKED, verdict)
    assert result.parseoutcomes().get(outcome) == 1
    if says:
        result.stdout.fnmatch_lines([says])
    ((model, base, workload, settings, acceptances),) = users.calls
    assert (model, base, workload.steps) == ("test_mine:make", "baseline", 3)
    assert (settings.exact, settings.pictures, settings.margin) == (True, 0, 0.05)
    assert acceptances == ()


def test_the_example_gates_what_it_says(users) -> None:
    example = Path(__file__).parent.parent / "examples" / "gate_in_ci" / "test_gate.py"
    source = example.read_text().partition("import pytest\n")[2].replace('"main"', '"baseline"')
    users(textwrap.indent(source, "    ")).assert_outcomes(passed=1)
    ((model, base, workload, _, _),) = users.calls
    assert (model, base, workload.steps) == ("mypackage.pipelines:make_tiny", "baseline", 4)


def test_the_fixture_alone_takes_everything(users) -> None:
    body = """
    def test_no_worse(halftime_gate):
        halftime_gate("mine:make", against="baseline", exact=False, budget="90s", allow="FLOPs")
    """
    users(body).assert_outcomes(passed=1)
    ((model, _, workload, settings, _),) = users.calls
    assert (model, settings.budget, settings.exact) == ("mine:make", 90, False)
    assert settings.allowed == ("FLOPs",)
    assert workload.steps == Workload().steps


def test_what_the_repository_accepts_counts(users, pytester: pytest.Pytester) -> None:
    line = accept("waits=1", "a cache", against="baseline")
    append_lines(pytester.path / "halftime-accepted.jsonl", (line,))
    users(MARKED, "accepted").assert_outcomes(passed=1, warnings=1)
    assert users.calls[0][4] == (line,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("halftime_gate(make)", "needs a base: against='main'"),
        ("halftime_gate(make, agianst='main', against='baseline')", "unknown field `agianst`"),
        ("halftime_gate(lambda: None, against='baseline')", "give a function at the top of a mod"),
        ("halftime_gate(make, against='nowhere')", "names nothing that can run here"),
        ("halftime_gate(make, against='baseline', slower='3')", "is not a share"),
    ],
)
def test_what_cannot_be_gated_is_said(users, call: str, says: str) -> None:
    result = users(f"\n    def test_it(halftime_gate):\n        {call}\n")
    assert result.parseoutcomes() == {"failed": 1}
    assert says in result.stdout.str()
    assert users.calls == []


def test_a_marker_that_gates_nothing_fails(users) -> None:
    body = """
    @pytest.mark.halftime_gate(make, against="baseline")
    def test_it():
        pass
    """
    result = users(body)
    result.assert_outcomes(errors=1)
    assert "nothing would be gated" in result.stdout.str()


def test_who_does_not_use_it_pays_nothing(users, pytester: pytest.Pytester) -> None:
    """It imports neither torch nor the gate, and adds no fixture that runs by itself."""
    source = "import sys, halftime.pytest_plugin; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "diffusers", "numpy", "msgspec", "halftime.verbs"} & {*modules}
    users("\n    def test_it():\n        pass\n").assert_outcomes(passed=1)
    assert users.calls == []
