"""The bundled model: its classes, its prompts, its size, that it never asks the network, and that
it draws."""

import collections
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
from PIL.Image import Image

from halftime import bundled

Draw = Callable[..., list[Image]]
ASKED = (
    "a 3D render of a red apple on a white background",
    "a 3D render of a penguin on a white background",
    "a flat icon of a blue car on a white background",
    "a flat icon of a pizza on a white background",
    "pixel art of a yellow star on a white background",
    "pixel art of a fox on a white background",
)


def test_importing_it_imports_no_torch() -> None:
    code = (
        "import sys; from halftime import bundled; bundled.prompts(); assert 'torch' not in "
        "sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_500_prompts_split_evenly_over_three_styles() -> None:
    prompts = bundled.prompts()
    assert len(prompts) == len({p.text for p in prompts}) == 500
    assert sorted(collections.Counter(p.style for p in prompts).values()) == [166, 167, 167]
    assert all(p.object in p.text for p in prompts)


def test_the_prompts_are_those_of_the_model_card() -> None:
    assert f"`{bundled.prompts_hash()}`" in (bundled.FOLDER / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_weights_are_at_most_25_mb() -> None:
    assert bundled.trained()
    assert sum(f.stat().st_size for f in bundled.FOLDER.rglob("*.safetensors")) <= 25_000_000


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the bundled model reached for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def draw(pipeline: StableDiffusionXLPipeline) -> Draw:
    def call(steps: int, **arguments: object) -> list[Image]:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(len(ASKED))]
        arguments = {"num_inference_steps": steps, "guidance_scale": bundled.GUIDANCE, **arguments}
        return list(pipeline(list(ASKED), generator=seeds, **arguments).images)

    return call


@pytest.fixture(scope="module")
def thirty(draw: Draw) -> list[Image]:
    return draw(30)


def test_loading_takes_a_second_or_so(pipeline: StableDiffusionXLPipeline) -> None:
    def seconds() -> float:
        begun = time.thread_time()  # of the processor: what else runs on the machine does not count
        bundled.load()
        return time.thread_time() - begun

    assert min(seconds() for _ in range(3)) < 1.5


def test_its_classes_are_sdxls(pipeline: StableDiffusionXLPipeline) -> None:
    assert {
        name: type(part).__name__ for name, part in pipeline.components.items() if part is not None
    } == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "EulerDiscreteScheduler",
    }
    assert pipeline.unet.config.addition_embed_type == "text_time"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_part_comes_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    pipeline = bundled.load(dtype)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {p.dtype for part in parts for p in part.parameters()} == {dtype}


def test_its_folder_is_an_ordinary_diffusers_folder(pipeline: StableDiffusionXLPipeline) -> None:
    again = StableDiffusionXLPipeline.from_pretrained(bundled.MODEL, local_files_only=True)
    for mine, theirs in zip(pipeline.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(mine, theirs.float())


def test_a_call_without_a_size_gives_128_px_and_is_repeatable(
    draw: Draw, thirty: list[Image]
) -> None:
    assert {picture.size for picture in thirty} == {(128, 128)}
    assert all(np.array_equal(a, b) for a, b in zip(draw(3), draw(3), strict=True))


def test_4_steps_draw_other_pictures_than_30(draw: Draw, thirty: list[Image]) -> None:
    pairs = zip(thirty, draw(4), strict=True)
    assert min(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs) > 1


def test_the_judge_finds_most_prompts(thirty: list[Image]) -> None:
    judge = bundled.load_judge()
    found = (judge.image_features(thirty) @ judge.text_features(ASKED).T).argmax(1)
    assert int((found == torch.arange(len(ASKED))).sum()) >= 5


def test_dpm_solver_with_karras_sigmas_draws_too(pipeline: StableDiffusionXLPipeline) -> None:
    euler = pipeline.scheduler
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        euler.config, use_karras_sigmas=True
    )
    try:
        seed = torch.Generator().manual_seed(0)
        picture = pipeline(ASKED[0], num_inference_steps=12, generator=seed).images[0]
    finally:
        pipeline.scheduler = euler
    assert (
        bundled.load_judge().scores([picture], ASKED[:1])[0]
        > bundled.load_judge().scores([picture], ASKED[1:2])[0]
    )


@torch.inference_mode()
def test_the_tiny_vae_shares_the_latents(pipeline: StableDiffusionXLPipeline, draw: Draw) -> None:
    latents = torch.stack(draw(12, output_type="latent"))
    full, tiny = pipeline.vae.decode(latents).sample, bundled.load_tiny_vae().decode(latents).sample
    assert full.shape == tiny.shape
    assert (full - tiny).square().mean() < 0.02  # of values in -1..1: more than 23 dB


def test_pixel_art_keeps_its_hard_edges(thirty: list[Image]) -> None:
    def share_on_grid(picture: Image) -> float:
        steps = np.abs(np.diff(np.asarray(picture, float).mean(-1), axis=1)).sum(0)
        return float(steps[7::8].sum() / steps.sum())

    pixel, others = thirty[4:], thirty[:4]
    assert min(map(share_on_grid, pixel)) > 2 * max(map(share_on_grid, others))


def test_the_judge_refuses_unequal_lists(thirty: list[Image]) -> None:
    with pytest.raises(ValueError, match="one prompt a picture"):
        bundled.load_judge().scores(thirty, ASKED[:2])
