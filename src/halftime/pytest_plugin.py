"""A pytest plugin: performance checks of a pipeline, most of them on any CPU runner.

def test_the_loop_never_waits(assert_no_syncs_in_loop):
    assert_no_syncs_in_loop(make_tiny_pipeline(), prompt="a cat", num_inference_steps=4)

@pytest.mark.halftime_gate("mypackage.pipelines:make_tiny", against="main", steps=4)
def test_no_worse_than_main(halftime_gate):
    halftime_gate()
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from halftime.records.audit import Audit
    from halftime.records.gate import Gate

Check = Callable[..., "Audit"]
GateCheck = Callable[..., "Gate"]
MARKER = "halftime_gate"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for --strict-markers."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(model, against=BASE, exact=True, pictures=0, …): what the fixture of that name "
        "gates; each argument may be given to the fixture instead",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that has the marker and never gates would pass whatever happens."""
    if item.get_closest_marker(MARKER) and MARKER not in getattr(item, "fixturenames", ()):
        pytest.fail(
            f"{item.name} has the marker {MARKER} and does not ask for the fixture {MARKER}, so "
            f"nothing would be gated: def {item.name}({MARKER}): {MARKER}()",
            pytrace=False,
        )


def assert_no_syncs_in_loop(
    pipeline: DiffusionPipeline, *, allowed: int = 0, **arguments: object
) -> Audit:
    """Audit one call of `pipeline` with `arguments`; fail where its denoising loop waits more than
    `allowed` times.

    Returns the Audit. AssertionError names every line that waits; a call without a denoising loop
    fails too.
    """
    # Here, since pytest loads this module wherever halftime is installed.
    from halftime.records import Workload
    from halftime.verbs.audit.run import audit

    steps = arguments.get("num_inference_steps")
    record = audit(pipeline, Workload(steps=steps if isinstance(steps, int) else 4), **arguments)
    if record.in_loop_total > allowed or not record.steps_seen:
        lines = "\n  ".join(record.because)
        raise AssertionError(
            f"{record.in_loop_total} waits in the denoising loop, {allowed} allowed:\n  {lines}"
        )
    return record


@pytest.fixture(name="assert_no_syncs_in_loop")
def _assert_no_syncs_in_loop() -> Check:
    """`assert_no_syncs_in_loop(pipeline, **arguments)`: fail where the denoising loop would wait on
    a GPU."""
    return assert_no_syncs_in_loop


def gate_model(
    model: str | Callable[[], DiffusionPipeline] | None = None,
    *,
    against: str = "",
    exact: bool = True,
    pictures: int = 0,
    budget: str = "2m",
    slower: str = "3%",
    alpha: str = "1%",
    processes: int = 3,
    allow: tuple[str, ...] = (),
    recipe: str | None = None,
    accepted: str | None = None,
    **workload: object,
) -> Gate:
    """As `halftime gate MODEL --against BASE`; by counters alone unless `exact` is False or there
    are `pictures`. `model` may be the function that makes the pipeline, too: one that its module's
    name finds. What is left of the arguments is the workload's: steps, size as width and height …

    Returns the Gate. AssertionError says why it is slower or worse; an undecided one skips the
    test, and one that was accepted warns.
    """
    from halftime import bundled
    from halftime.base.errors import BadInput
    from halftime.base.units import parse_seconds, parse_share
    from halftime.pipeline.workload import change
    from halftime.records import Workload
    from halftime.verbs.gate.accept import counting
    from halftime.verbs.gate.run import GateSettings, gate
    from halftime.verbs.gate.sides import alike, here, side_of

    if not against:
        raise BadInput(
            f"{MARKER} needs a base: against='main', or another that `halftime gate --against` "
            "takes."
        )
    settings = GateSettings(
        margin=parse_share(slower),
        alpha=parse_share(alpha),
        budget=parse_seconds(budget),
        processes=processes,
        pictures=pictures,
        exact=exact,
        allowed=(allow,) if isinstance(allow, str) else tuple(allow),
    )
    name = model if model is None or isinstance(model, str) else _importable(model)
    if name is None:
        workload.setdefault("guidance", bundled.GUIDANCE)  # as on the command line
    question = change(Workload(), workload)
    candidate = here(recipe)
    with side_of(against, name) as base:
        lines = counting(accepted, base, name)
        record = gate(
            name, alike(base, candidate), candidate, question, settings, acceptances=lines
        )
    return _checked(record)


def _checked(record: Gate) -> Gate:
    from halftime.base.errors import HalftimeWarning

    sides = f"{record.candidate.label} against {record.base.label}"
    if record.verdict in ("slower", "worse"):
        raise AssertionError("\n  ".join((f"{sides}: {record.verdict}", *record.objections)))
    if record.verdict == "undecided":
        pytest.skip(f"{sides}: undecided; what would decide: {record.would_decide}")
    if record.verdict == "accepted":
        warnings.warn(f"{sides}: {'; '.join(record.reasons)}", HalftimeWarning, stacklevel=3)
    return record


def _importable(function: Callable[[], DiffusionPipeline]) -> str:
    """'module:function'. Raises BadInput for what another process cannot import by that name."""
    from halftime.base.errors import BadInput

    name, module = getattr(function, "__qualname__", ""), inspect.getmodule(function)
    if module is None or getattr(module, name, None) is not function:
        raise BadInput(
            f"{name or function!r} cannot be called by other processes, in which both sides run: "
            "give a function at the top of a module, or its name as 'mypackage.pipelines:make'."
        )
    return f"{module.__name__}:{name}"


@pytest.fixture(name=MARKER)
def _halftime_gate(request: pytest.FixtureRequest) -> GateCheck:
    """`halftime_gate(model, against=BASE, …)`: fail where the pipeline is slower or worse than it
    was. What the marker of the same name says need not be said again."""
    marker = request.node.get_closest_marker(MARKER)
    defaults = dict(marker.kwargs) if marker else {}
    if marker and marker.args:
        defaults["model"] = marker.args[0]

    def check(*model: object, **arguments: object) -> Gate:
        if model:
            arguments["model"] = model[0]
        return gate_model(**(defaults | arguments))

    return check
