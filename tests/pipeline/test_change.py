"""One attribute set for a while, one class extended for a while: undone exactly, in any nesting."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from halftime.pipeline.change import intercepted, patched, progress_bars, subclassed
from halftime.testing import FakeClock, FakePipeline

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.integers() | st.none()


@given(st.dictionaries(NAMES, VALUES), st.lists(st.tuples(NAMES, VALUES)), st.booleans())
def test_patches_nest_and_are_undone_also_after_an_exception(
    before: dict[str, object], patches: list[tuple[str, object]], fails: bool
) -> None:
    holder = SimpleNamespace(**before)
    try:
        with ExitStack() as stack:
            for name, value in patches:
                stack.enter_context(patched(holder, name, value))
                assert getattr(holder, name) is value
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert vars(holder) == before


def test_a_patch_of_a_module_class_or_package_is_undone() -> None:
    linear = nn.Linear(2, 2)
    with patched(linear, "forward", lambda x: x + 1):
        assert torch.equal(linear(torch.zeros(2)), torch.ones(2))
    assert "forward" not in vars(linear)
    own, inherited = nn.Module.named_modules, nn.Linear.named_modules
    with patched(nn.Module, "named_modules", None), patched(nn.Linear, "named_modules", len):
        assert nn.Module.named_modules is None
        assert nn.Linear.named_modules is len
    assert nn.Module.named_modules is own is inherited
    assert "named_modules" not in vars(nn.Linear)
    with patched(torch, "halftime_only_here", 1):
        assert torch.halftime_only_here == 1
    assert not hasattr(torch, "halftime_only_here")


def test_a_class_is_extended_under_its_own_name_and_given_back() -> None:
    clock = FakeClock()
    with subclassed(clock, {"advance": lambda self, seconds: None}):
        clock.advance(5)
        copy.deepcopy(clock).advance(5)
        assert isinstance(clock, FakeClock)
        assert type(clock) is not FakeClock
        extended = type(clock)
        assert (extended.__name__, extended.__module__, extended.__doc__) == (
            "FakeClock",
            FakeClock.__module__,
            FakeClock.__doc__,
        )
    assert type(clock) is FakeClock
    clock.advance(5)
    assert clock.now == 5


def test_extensions_nest_and_are_undone_after_an_exception() -> None:
    clock = FakeClock()

    def fail() -> None:
        with (
            subclassed(clock, {"outer": property(lambda self: 1)}),
            subclassed(clock, {"inner": property(lambda self: self.outer + 1)}),
        ):
            assert clock.inner == 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert type(clock) is FakeClock


def test_a_class_laid_out_in_c_is_refused() -> None:
    numbers: list[int] = []
    with pytest.raises(TypeError), subclassed(numbers, {"append": lambda self, item: None}):
        pass
    assert type(numbers) is list


def test_a_call_is_intercepted_with_the_signature_that_it_has() -> None:
    pipeline = FakePipeline(FakeClock())
    with intercepted(pipeline, lambda arguments: {**arguments, "num_inference_steps": 2}):
        pipeline("x", num_inference_steps=9)
    assert pipeline.scheduler.timesteps == [0, 1]
    assert type(pipeline) is FakePipeline


def test_progress_bars_keep_their_own_options() -> None:
    pipeline = FakePipeline(FakeClock())
    pipeline.set_progress_bar_config(desc="mine")
    pipeline.prior = prior = FakePipeline(FakeClock())
    before = {id(part): dict(vars(part)) for part in (pipeline, prior)}
    with progress_bars(pipeline, disable=True):
        assert pipeline.progress_bar(total=1).disable
        assert prior.progress_bar(total=1).disable
    assert {id(part): dict(vars(part)) for part in (pipeline, prior)} == before
    assert not pipeline.progress_bar(total=1).disable
