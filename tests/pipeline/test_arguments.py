"""One call's arguments, for pipelines of diffusers and for wrappers of anybody's."""

from __future__ import annotations

import pytest

from halftime.base.errors import BadWorkload, HalftimeWarning
from halftime.pipeline.arguments import call_arguments, call_parameters
from halftime.records import Workload
from tiny_pipelines import PIPELINES


def test_arguments_of_a_call() -> None:
    pipeline = PIPELINES["sd15"].build()
    arguments = call_arguments(
        pipeline, Workload(prompts=("a", "b"), negative_prompt="c", images_per_prompt=2, seed=5)
    )
    assert arguments["prompt"] == ["a", "b"]
    assert arguments["negative_prompt"] == ["c", "c"]
    assert [generator.initial_seed() for generator in arguments["generator"]] == [5, 6, 7, 8]
    again = call_arguments(pipeline, Workload(negative_prompt="c"))
    assert (again["prompt"], again["negative_prompt"]) == (Workload().prompts[0], "c")


def test_arguments_refused() -> None:
    pipeline = PIPELINES["sd15"].build()
    with pytest.raises(
        BadWorkload, match=r"width 33 is not divisible by 2, the VAE's factor\. Nearest: 32 or 34"
    ):
        call_arguments(pipeline, Workload(width=33))
    with pytest.raises(BadWorkload, match="FluxPipeline takes no num_frames"):
        call_arguments(PIPELINES["flux"].build(), Workload(arguments={"num_frames": 9}))
    # What nobody asked for is left out silently where a pipeline does not take it.
    assert "prompt" not in call_arguments(PIPELINES["kandinsky22_decoder"].build(), Workload())


def test_a_call_that_hands_everything_on_gets_everything() -> None:
    class Wrapper:
        def __call__(self, *args: object, **kwargs: object) -> None: ...

    assert {"prompt", "num_inference_steps", "generator"} <= call_arguments(
        Wrapper(), Workload()
    ).keys()  # type: ignore[arg-type]


class Closed:
    def __call__(self, prompt: str = "", num_inference_steps: int = 50) -> None: ...


def test_a_wrapper_with_a_prompt_of_its_own_gets_steps_and_generator() -> None:
    class Wrapper:
        def __call__(self, prompt: str = "", **more: object) -> None: ...

    given = call_arguments(Wrapper(), Workload(steps=4))  # type: ignore[arg-type]
    assert given["num_inference_steps"] == 4
    assert "generator" in given


def test_a_subclass_gets_what_the_call_that_it_extends_takes() -> None:
    class Wrapper(Closed):
        def __call__(self, *args: object, **more: object) -> None: ...

    given = call_arguments(Wrapper(), Workload(steps=4))  # type: ignore[arg-type]
    assert set(given) == {"prompt", "num_inference_steps"}
    with pytest.warns(HalftimeWarning, match="Wrapper names no argument 'nope'; it goes in by"):
        given = call_arguments(Wrapper(), Workload(arguments={"nope": 1}))  # type: ignore[arg-type]
    assert given["nope"] == 1


def test_a_misspelt_argument_is_refused_though_diffusers_swallows_it() -> None:
    with pytest.raises(
        BadWorkload, match=r"takes no gidance_scale\. Did you mean 'guidance_scale'"
    ):
        call_arguments(PIPELINES["sdxl"].build(), Workload(arguments={"gidance_scale": 1}))


def test_the_parameters_of_a_call_are_those_of_all_calls_that_it_extends() -> None:
    class Wrapper(Closed):
        def __call__(self, *args: object, steps_of_mine: int = 3, **more: object) -> None: ...

    parameters = call_parameters(Wrapper())  # type: ignore[arg-type]
    assert parameters.names == ("steps_of_mine", "prompt", "num_inference_steps")
    assert parameters.default("num_inference_steps") == 50
    assert parameters.hands_on
    assert not parameters.takes("guidance_scale")


def test_a_call_that_hands_nothing_on_closes_the_list() -> None:
    class Narrow(Closed):
        def __call__(self, prompt: str) -> None: ...

    parameters = call_parameters(Narrow())  # type: ignore[arg-type]
    assert parameters.names == ("prompt",)
    assert parameters.default("prompt") is None
    assert set(call_arguments(Narrow(), Workload())) == {"prompt"}  # type: ignore[arg-type]


def test_a_call_that_takes_anything_takes_what_nobody_names() -> None:
    class Wrapper:
        def __call__(self, **kwargs: object) -> None: ...

    parameters = call_parameters(Wrapper())  # type: ignore[arg-type]
    assert parameters.takes("anything")
    assert parameters.names == ()
