"""A sample of the matrix of `benchmarks.fix.breadth`: states in which users bring a pipeline."""

from __future__ import annotations

import pytest

from fix_cells import STEPS, Subject
from tiny_pipelines import FAMILIES, PIPELINES, states

# One of each kind that needs no package beside the suite's own.
SAMPLE = (
    "sd15, ip-adapter",
    "sd15, shared",
    "flux, custom processors",
    "sd3, own scheduler step",
    "wan, layerwise casting",
)


def failing(row: dict[str, object]) -> dict[str, object]:
    """What of a row is not right: fixes, and profile and audit."""
    cells = {**row["cells"], "profile": row["profile"], "audit": row["audit"]}  # type: ignore[dict-item]
    return {name: cell for name, cell in cells.items() if cell["outcome"] == "fails"}


@pytest.mark.slow
@pytest.mark.parametrize("row", SAMPLE)
def test_every_fix_is_right_or_refuses_in_this_state(row: str) -> None:
    assert failing(states.measure(row)) == {}


@pytest.mark.parametrize("state", states.STATES)
def test_every_state_draws_a_picture_of_its_own_or_the_plain_one(state: str) -> None:
    if states.missing(state):
        pytest.skip(f"{states.missing(state)} is not installed")
    base = states.STATES[state].bases[0]
    subject, call, _ = states.entered(f"{base}, {state}")
    judged = Subject(subject.pipeline, call)
    assert judged.baseline.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["marigold_depth", "kandinsky22_prior"])
def test_every_fix_is_right_or_refuses_on_this_family(name: str) -> None:
    tiny = {**PIPELINES, **FAMILIES}[name]
    pipeline = tiny.build()
    cells = Subject(pipeline, lambda: pipeline(**tiny.arguments(STEPS))).row()
    assert {fix: cell.text for fix, cell in cells.items() if cell.outcome == "fails"} == {}
