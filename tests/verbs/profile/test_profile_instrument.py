"""Instrumenting leaves a pipeline as it was, and times it however it is put together."""

from __future__ import annotations

import copy
import inspect

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from halftime.base.ledger import ledger, steps_taken
from halftime.records import Workload
from halftime.testing import FakeClock, FakePipeline
from halftime.verbs.profile.call import timed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.instrument import UNRECOGNISED, instrumented
from halftime.verbs.profile.recorder import Recorder
from tiny_pipelines import BREADTH, FAMILIES


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


def test_the_class_stays_so_that_a_pipeline_may_compare_it() -> None:
    pipeline = FakePipeline(FakeClock())
    classes = {name: type(part) for name, part in pipeline.components.items()}
    with instrumented(pipeline, Recorder(HostClock())):
        assert type(pipeline) is FakePipeline
        assert {name: type(part) for name, part in pipeline.components.items()} == classes
    assert "step" in vars(type(pipeline.scheduler))
    assert not hasattr(type(pipeline.scheduler).step, "__wrapped__")


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy])
def test_a_copys_steps_are_its_own_and_are_timed(copying) -> None:
    pipeline, recorder = FakePipeline(FakeClock()), Recorder(HostClock())
    with instrumented(pipeline, recorder):
        twin = copying(pipeline.scheduler)
        twin.set_timesteps(7)
        twin.step(torch.zeros(1), 0, torch.zeros(1))
    assert pipeline.scheduler.timesteps == []
    assert [span.name for span in recorder.spans] == ["scheduler.set_timesteps", "scheduler.step"]


def test_another_object_of_the_class_is_not_timed() -> None:
    pipeline, stranger = FakePipeline(FakeClock()), FakePipeline(FakeClock())
    recorder = Recorder(HostClock())
    with instrumented(pipeline, recorder):
        stranger("x", num_inference_steps=2)
    assert recorder.spans == []


def test_two_that_are_instrumented_at_once_need_not_end_in_order() -> None:
    pipelines = [FakePipeline(FakeClock()) for _ in range(2)]
    recorders = [Recorder(HostClock()) for _ in range(2)]
    blocks = [instrumented(*pair) for pair in zip(pipelines, recorders, strict=True)]
    for block in blocks:
        block.__enter__()
    blocks[0].__exit__(None, None, None)
    for pipeline in pipelines:
        pipeline("x", num_inference_steps=2)
    blocks[1].__exit__(None, None, None)
    assert recorders[0].spans == []
    assert sum(span.name == "scheduler.step" for span in recorders[1].spans) == 2
    assert not hasattr(type(pipelines[0].scheduler).step, "__wrapped__")
    assert "encode_prompt" in vars(FakePipeline)
    assert "progress_bar" not in vars(FakePipeline)


class ToPil(FakePipeline):
    """Converts as Kandinsky, DiT and DeepFloyd do: through diffusers' static method."""

    clock: FakeClock

    @staticmethod
    def numpy_to_pil(images: torch.Tensor) -> torch.Tensor:
        ToPil.clock.advance(0.5)
        return images

    def __call__(self, prompt: str, **settings: object) -> torch.Tensor:
        return self.numpy_to_pil(super().__call__(prompt, **settings))


def test_pictures_converted_by_a_static_method_are_postprocessing() -> None:
    ToPil.clock = clock = FakeClock()
    pipeline = ToPil(clock, {"unet": 0.1, "vae.decode": 0.2})
    before = state_of(pipeline)
    rows = {row.stage: row for row in ledger([timed_call(pipeline, Workload(steps=5), clock)])}
    assert rows["postprocess"].seconds == pytest.approx(0.5)
    assert rows["unexplained"].seconds == pytest.approx(0.0)
    assert state_of(pipeline).keys() == before.keys()
    assert inspect.getattr_static(diffusers.DiTPipeline, "numpy_to_pil").__class__ is staticmethod


class WithoutScheduler(FakePipeline):
    """Steps by itself, as many people's own do; `form` says how it shows its progress."""

    form = "update"

    def __call__(self, prompt: str, num_inference_steps: int = 30, **_: object) -> torch.Tensor:
        sample = self.encode_prompt(prompt)
        if self.form == "update":
            with self.progress_bar(total=num_inference_steps) as bar:
                for _ in range(num_inference_steps):
                    sample = self.step(sample)
                    bar.update()
        else:
            steps = range(num_inference_steps)
            for _ in self.progress_bar(steps) if self.form == "bar" else steps:
                sample = self.step(sample)
        return self.vae.decode(sample)

    def step(self, sample: torch.Tensor) -> torch.Tensor:
        output = self.unet(sample)
        self._clock.advance(0.01)
        return output


@pytest.mark.parametrize("form", ["update", "bar", "plain"])
def test_a_loop_without_a_scheduler_shows_its_steps(form: str) -> None:
    clock = FakeClock()
    pipeline = WithoutScheduler(clock, {"unet": 0.1, "vae.decode": 0.2})
    pipeline.form = form
    run = timed_call(pipeline, Workload(steps=5), clock)
    (row,) = [row for row in ledger([run]) if row.stage == "denoise"]
    assert row.per_step is not None
    assert row.per_step.count == 5
    assert row.per_step.median_seconds == pytest.approx(0.11)
    assert steps_taken(run.run.spans) == 5
    steps = [span.step for span in run.run.spans if span.name == "unet"]
    assert steps == [0, 1, 2, 3, 4]


def test_a_pipeline_that_compares_the_class_of_its_scheduler_draws_the_same() -> None:
    """Bria leaves its timesteps to another path where the class is not the very one it knows."""
    tiny = FAMILIES["bria"]
    before = np.asarray(tiny.build()(**tiny.arguments())[0])
    pipeline, recorder = tiny.build(), Recorder(HostClock())
    with instrumented(pipeline, recorder):
        during = np.asarray(pipeline(**tiny.arguments())[0])
    np.testing.assert_array_equal(before, during)
    assert sum(span.name == "scheduler.step" for span in recorder.spans) == 2


def test_a_modular_pipeline_has_stages_and_steps() -> None:
    tiny = BREADTH["modular_sdxl"]
    pipeline = tiny.build()
    work = Workload(prompts=("a cat",), steps=3, width=32, height=32)
    run = timed_call(pipeline, work, HostClock(), {"output_type": "np"})
    rows = {row.stage: row for row in ledger([run])}
    assert not [stage for stage in rows if UNRECOGNISED in stage]
    assert {"prepare", "encode_prompt", "denoise", "vae_decode"} <= set(rows)
    assert rows["denoise"].per_step is not None
    assert rows["denoise"].per_step.count == 3
    assert rows["unexplained"].share < 0.5


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


def test_a_component_whose_class_cannot_be_exchanged_is_timed_all_the_same() -> None:
    pipeline = FakePipeline(FakeClock())
    pipeline.image_processor = CannotBeExtended()
    recorder = Recorder(HostClock())
    with instrumented(pipeline, recorder):
        pipeline("x", num_inference_steps=1)
        assert type(pipeline.image_processor) is CannotBeExtended
    assert "postprocess" in {span.place.stage for span in recorder.spans}
