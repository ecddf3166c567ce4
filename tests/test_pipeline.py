"""Loading pipelines, naming their stages, and making one call's arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from halftime.errors import BadWorkload, HalftimeWarning, UnknownDevice, UnknownModel
from halftime.pipeline import call_arguments, checked_device, load, place_of, scheduler_named
from halftime.records import Workload
from tiny_pipelines import PIPELINES


@pytest.mark.parametrize(
    ("component", "stage"),
    [
        ("text_encoder_2", "encode_prompt"),
        ("prior_text_encoder", "encode_prompt"),
        ("tokenizer_3", "encode_prompt"),
        ("prior_prior", "denoise"),
        ("transformer_2", "denoise"),
        ("controlnet", "denoise"),
        ("decoder_scheduler", "denoise"),
        ("vqgan", "vae_decode"),
        ("safety_checker", "postprocess"),
        ("mask_processor", "postprocess"),
    ],
)
def test_components_have_stages_by_name(component: str, stage: str) -> None:
    place = place_of(component)
    assert place is not None
    assert place.stage == stage


def test_unknown_components_have_none() -> None:
    assert place_of("flux_capacitor") is None


def test_a_folder_that_save_pretrained_wrote(tmp_path: Path) -> None:
    PIPELINES["pixart_sigma"].build().save_pretrained(tmp_path / "model")
    assert type(load(str(tmp_path / "model"), Workload()).pipeline).__name__ == "PixArtSigmaPipeline"


def test_a_function_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypipes.py").write_text(
        "from tiny_pipelines import PIPELINES\nmake = PIPELINES['sd15'].build\nanswer = 42\ndef wrong(): return 42\n"
        "def needs(size, *more, dtype=None): return 42\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    loaded = load("mypipes:make", Workload(scheduler="DPMSolverMultistep", dtype="bfloat16"))
    assert type(loaded.pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert loaded.pipeline.unet.dtype == torch.bfloat16
    assert sys.path == before
    for spec, complaint in (
        ("mypipes:nothing", "has no function"),
        ("mypipes:answer", "has no function"),
        ("mypipes:mak", "Did you mean 'make'"),
        ("mypipes:needs", "needs size, and is called without arguments"),
        ("mypipes:wrong", "returned int"),
        ("nomodule:f", "cannot import"),
    ):
        with pytest.raises(UnknownModel, match=complaint):
            load(spec, Workload())


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"no model_index\.json"):
        load(str(tmp_path), Workload())
    with pytest.raises(UnknownModel, match="is no model"):
        load("surely not a model", Workload())
    with pytest.raises(UnknownModel, match="no such folder"):
        load("./nowhere", Workload())
    with pytest.raises(UnknownModel, match="the hub did not give it"):
        load("nobody/nothing", Workload())


@pytest.mark.parametrize("device", ["cuda:7", "abacus", "tpu"])
def test_devices_that_are_not_here(device: str) -> None:
    with pytest.raises(UnknownDevice, match=r"Here are: cpu"):
        checked_device(device)


def test_arguments_of_a_call() -> None:
    pipeline = PIPELINES["sd15"].build()
    arguments = call_arguments(pipeline, Workload(prompts=("a", "b"), negative_prompt="c", images_per_prompt=2, seed=5))
    assert arguments["prompt"] == ["a", "b"]
    assert arguments["negative_prompt"] == ["c", "c"]
    assert [generator.initial_seed() for generator in arguments["generator"]] == [5, 6, 7, 8]
    again = call_arguments(pipeline, Workload(negative_prompt="c"))
    assert (again["prompt"], again["negative_prompt"]) == (Workload().prompts[0], "c")


def test_arguments_refused() -> None:
    pipeline = PIPELINES["sd15"].build()
    with pytest.raises(BadWorkload, match=r"width 33 is not divisible by 2, the VAE's factor\. Nearest: 32 or 34"):
        call_arguments(pipeline, Workload(width=33))
    with pytest.raises(BadWorkload, match="FluxPipeline takes no num_frames"):
        call_arguments(PIPELINES["flux"].build(), Workload(arguments={"num_frames": 9}))
    with pytest.raises(BadWorkload, match="'Fast' is not in diffusers"):
        scheduler_named("Fast", pipeline)
    # What nobody asked for is left out silently where a pipeline does not take it.
    assert "prompt" not in call_arguments(PIPELINES["kandinsky22_decoder"].build(), Workload())


def test_a_call_that_hands_everything_on_gets_everything() -> None:
    class Wrapper:
        def __call__(self, *args: object, **kwargs: object) -> None: ...

    assert {"prompt", "num_inference_steps", "generator"} <= call_arguments(Wrapper(), Workload()).keys()  # type: ignore[arg-type]


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
    with pytest.raises(BadWorkload, match=r"takes no gidance_scale\. Did you mean 'guidance_scale'\?"):
        call_arguments(PIPELINES["sdxl"].build(), Workload(arguments={"gidance_scale": 1}))
