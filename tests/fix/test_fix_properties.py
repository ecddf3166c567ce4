"""Whatever fixes are put on, in whatever order, nested or interleaved, and wherever an exception
comes: afterwards the pipeline is bit for bit what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import halftime
from fix_cells import RUNTIMES, SETTINGS, STEPS, Subject, changes, drawing, fingerprint
from halftime.base.errors import HalftimeError
from halftime.fix.apply import choose, reasons
from halftime.records.recipe import Choice, Plan
from tiny_pipelines import PIPELINES

NAMES = ("sd15", "sd15_img2img", "sdxl", "sd3", "flux", "pixart_sigma", "wan")
few = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
pytestmark = pytest.mark.slow


class Planted(Exception):
    """The exception that comes at a random moment."""


@cache
def subject(name: str) -> Subject:
    """One pipeline a family: what an example leaves behind, the next one sees."""
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    return Subject(pipeline, lambda: pipeline(**tiny.arguments(STEPS)))


@cache
def applying(name: str) -> tuple[str, ...]:
    """The fixes that say that they apply; other runtimes take minutes."""
    verdicts = reasons(subject(name).pipeline)  # type: ignore[arg-type]
    return tuple(fix for fix, reason in verdicts.items() if reason is None and fix not in RUNTIMES)


def choice(fix: str) -> Choice:
    return Choice(name=fix, settings=SETTINGS.get(fix, {}))


@st.composite
def plans(draw: st.DrawFn, count: int = 1) -> tuple[str, list[list[Choice]]]:
    """A family, and so many plans for it, without conflicts within one."""
    name = draw(st.sampled_from(NAMES))
    fixes = st.lists(st.sampled_from(applying(name)), min_size=1, max_size=4, unique=True)
    return name, [_compatible(draw(fixes)) for _ in range(count)]


def _compatible(fixes: list[str]) -> list[Choice]:
    chosen: list[Choice] = []
    for fix in fixes:
        with suppress(HalftimeError):
            choose(Plan(fixes=(*chosen, choice(fix))))
            chosen.append(choice(fix))
    return chosen


@contextmanager
def raising_at(moment: int) -> Iterator[None]:
    """The n-th call of any module raises: a hook of torch's own, so that the pipeline stays as it
    is."""
    calls = 0

    def raise_then(module: nn.Module, args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Planted(f"in {type(module).__name__}, call {moment}")

    handle = register_module_forward_pre_hook(raise_then)
    try:
        yield
    finally:
        handle.remove()


def assert_as_before(name: str) -> None:
    """The picture, and every weight, buffer, attribute, class and hook."""
    before = subject(name)
    np.testing.assert_array_equal(drawing(before.call), before.baseline)
    assert changes(before.before, fingerprint(before.pipeline)) == []


@few
@given(plans(), st.integers(1, 400))
def test_an_exception_at_any_moment_leaves_the_pipeline_as_it_was(
    plan: tuple[str, list[list[Choice]]], moment: int
) -> None:
    name, (fixes,) = plan
    with torch.compiler.set_stance("force_eager"):
        # A refusal is as good; and the moment may come after the call.
        with (
            suppress(Planted, HalftimeError),
            raising_at(moment),
            halftime.applied(subject(name).pipeline, fixes),  # type: ignore[arg-type]
        ):
            drawing(subject(name).call)
        assert_as_before(name)


@few
@given(plans(2), st.booleans())
def test_nested_blocks_leave_the_pipeline_as_it_was(
    plan: tuple[str, list[list[Choice]]], call_between: bool
) -> None:
    name, (outer, inner) = plan
    pipeline = subject(name).pipeline
    with torch.compiler.set_stance("force_eager"):
        with (
            suppress(HalftimeError),
            halftime.applied(pipeline, outer, probe=False),  # type: ignore[arg-type]
        ):
            if call_between:
                drawing(subject(name).call)
            with halftime.applied(pipeline, inner, probe=False):  # type: ignore[arg-type]
                drawing(subject(name).call)
        assert_as_before(name)


@few
@given(plans(2))
def test_blocks_left_in_the_order_of_entry_leave_the_pipeline_as_it_was(
    plan: tuple[str, list[list[Choice]]],
) -> None:
    name, (first, second) = plan
    pipeline = subject(name).pipeline
    stacks = ExitStack(), ExitStack()
    with torch.compiler.set_stance("force_eager"):
        for stack, fixes in zip(stacks, (first, second), strict=True):
            with suppress(HalftimeError):  # it may refuse to be put on a second time
                stack.enter_context(halftime.applied(pipeline, fixes, probe=False))  # type: ignore[arg-type]
        drawing(subject(name).call)
        for stack in stacks:
            with suppress(HalftimeError):  # it may say that the order is wrong
                stack.close()
        assert_as_before(name)
