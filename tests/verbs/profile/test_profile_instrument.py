"""Instrumenting leaves a pipeline as it was, and times it however it is put together."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from halftime.testing import FakeClock, FakePipeline
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.instrument import UNRECOGNISED, instrumented
from halftime.verbs.profile.recorder import Recorder


def state_of(pipeline: FakePipeline) -> dict[str, object]:
    """Everything that instrumenting touches, by identity."""
    things = {
        "pipeline": pipeline,
        **pipeline.components,
        "image_processor": pipeline.image_processor,
    }
    return {
        f"{name}.{key}": value
        for name, thing in things.items()
        for key, value in {
            "__class__": type(thing),
            **{k: id(v) for k, v in vars(thing).items()},
        }.items()
    }


@pytest.mark.parametrize("fail_at", [None, 2])
def test_the_pipeline_is_left_as_it_was_also_after_an_exception(fail_at: int | None) -> None:
    pipeline = FakePipeline(FakeClock(), fail_at=fail_at)
    pipeline("x", num_inference_steps=1)
    before = state_of(pipeline)
    try:
        with instrumented(pipeline, Recorder(HostClock())):
            assert state_of(pipeline) != before
            pipeline("x", num_inference_steps=4)
    except RuntimeError:
        assert fail_at is not None
    after = state_of(pipeline)
    # The call itself gives the scheduler a new list of timesteps.
    assert {k: v for k, v in after.items() if "timesteps" not in k} == {
        k: v for k, v in before.items() if "timesteps" not in k
    }


def test_signatures_stay_visible_to_the_pipeline() -> None:
    pipeline = FakePipeline(FakeClock())
    before = inspect.signature(pipeline.scheduler.step)
    with instrumented(pipeline, Recorder(HostClock())):
        assert inspect.signature(pipeline.scheduler.step) == before
        assert type(pipeline).__name__ == "FakePipeline"
        assert isinstance(pipeline, FakePipeline)


def test_a_copy_of_an_instrumented_scheduler_is_a_copy() -> None:
    pipeline = FakePipeline(FakeClock())
    with instrumented(pipeline, Recorder(HostClock())):
        twin = copy.deepcopy(pipeline.scheduler)
        twin.set_timesteps(7)
        assert len(twin.timesteps) == 7
        assert pipeline.scheduler.timesteps == []


def test_an_unknown_component_degrades_to_a_named_row() -> None:
    class Odd(FakePipeline):
        def __init__(self, clock: FakeClock) -> None:
            super().__init__(clock)
            self.mystery = nn.Identity()

        @property
        def components(self) -> dict[str, object]:
            return {**super().components, "mystery": self.mystery}

        def encode_prompt(self, prompt: str) -> torch.Tensor:
            return self.mystery(super().encode_prompt(prompt))

    recorder = Recorder(HostClock())
    pipeline = Odd(FakeClock())
    with instrumented(pipeline, recorder):
        pipeline("x", num_inference_steps=1)
    assert f"mystery ({UNRECOGNISED})" in {span.place.stage for span in recorder.spans}


def test_a_module_compiled_in_place_is_timed_outside_of_what_is_compiled() -> None:
    pipeline = FakePipeline(FakeClock())
    calls: list[int] = []
    pipeline.unet._compiled_call_impl = lambda sample: calls.append(1) or sample
    recorder = Recorder(HostClock())
    with instrumented(pipeline, recorder):
        pipeline("x", num_inference_steps=3)
        assert "forward" not in vars(pipeline.unet)
    assert len(calls) == 3
    assert sum(span.name == "unet" for span in recorder.spans) == 3


class CannotBeExtended:
    """As a class laid out in C: `__class__` cannot be assigned."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            raise TypeError("__class__ assignment: object layout differs")
        super().__setattr__(name, value)

    def postprocess(self, image: torch.Tensor) -> torch.Tensor:
        return image


def test_a_component_whose_class_cannot_be_extended_is_left_alone() -> None:
    pipeline = FakePipeline(FakeClock())
    pipeline.image_processor = CannotBeExtended()
    recorder = Recorder(HostClock())
    with instrumented(pipeline, recorder):
        pipeline("x", num_inference_steps=1)
        assert type(pipeline.image_processor) is CannotBeExtended
    assert "postprocess" not in {span.place.stage for span in recorder.spans}
