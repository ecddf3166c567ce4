"""The pipeline as the worker has it: what a batch, a preview, an abort and a neighbour may not
change."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace

import diffusers
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from serve_helpers import job

from halftime.base.errors import BadInput, BadWorkload
from halftime.records import Session
from halftime.verbs.serve.messages import EngineSettings, Job, Preview
from halftime.verbs.serve.preview import Previews, Unpacker
from halftime.verbs.serve.stepping import NobodyWaits, Watch
from halftime.verbs.serve.studio import Drawing, Studio, as_pixels, open_studio

SETTINGS = EngineSettings(model="serve_models:sdxl", steps=(4,), sizes=((32, 32),), tiny_vae=None)


@cache
def studio(model: str = "sdxl") -> Studio:
    return open_studio(msgspec.structs.replace(SETTINGS, model=f"serve_models:{model}"))


def small(name: str = "a", **changes: object) -> Job:
    return job(name, **{"width": 32, "height": 32, "steps": 4, **changes})


def draw(opened_studio: Studio, jobs: Sequence[Job], previews: Previews | None = None) -> Drawing:
    return opened_studio.draw(jobs, Watch(jobs, lambda: jobs, previews))


def picture(size: int = 48) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def tiny_for(opened_studio: Studio) -> diffusers.AutoencoderTiny:
    channels = opened_studio.pipeline.vae.config.latent_channels
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
    ).eval()


def previews_into(previews_sent: list[Preview], opened_studio: Studio) -> Previews:
    previews = Previews(
        tiny_for(opened_studio), previews_sent.append, Unpacker(opened_studio.pipeline)
    )
    previews.start()
    return previews


class Latents:
    """Catches what the VAE is given: the final latents."""

    def __init__(self, opened_studio: Studio) -> None:
        self.seen: list[torch.Tensor] = []
        decode = opened_studio.pipeline.vae.decode

        def catching(latents: torch.Tensor, *args: object, **kwargs: object) -> object:
            self.seen.append(latents.clone())
            return decode(latents, *args, **kwargs)

        self.undo: Callable[[], None] = lambda: vars(opened_studio.pipeline.vae).__setitem__(
            "decode", decode
        )
        vars(opened_studio.pipeline.vae)["decode"] = catching


def test_a_picture_is_what_the_bare_pipeline_draws() -> None:
    import serve_models

    bare = serve_models.sdxl()
    expected = bare(
        "a red apple",
        width=32,
        height=32,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    drawing = draw(studio(), [small(seed=7)])
    np.testing.assert_array_equal(drawing.pictures[0], np.asarray(expected))


def test_stages_add_up_to_the_call() -> None:
    drawing = draw(studio(), [small()])
    assert sum(drawing.stages.values()) == pytest.approx(drawing.seconds)
    assert {"encode_prompt", "denoise", "vae_decode", "postprocess"} <= set(drawing.stages)


@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux"])
def test_final_latents_are_the_same_bit_for_bit_with_and_without_previews(model: str) -> None:
    opened_studio, previews_sent = studio(model), list[Preview]()
    watched = Latents(opened_studio)
    try:
        without = draw(opened_studio, [small()])
        previews = previews_into(previews_sent, opened_studio)
        jobs = [small(previews=3)]
        previews.open(jobs)
        with_them = opened_studio.draw(jobs, Watch(jobs, lambda: jobs, previews))
        previews.flush()
    finally:
        watched.undo()
    assert torch.equal(watched.seen[0], watched.seen[1])
    np.testing.assert_array_equal(without.pictures, with_them.pictures)
    assert previews_sent
    steps = [preview.step for preview in previews_sent]
    assert steps == sorted(set(steps))
    assert all(
        len(preview.pixels) == preview.width * preview.height * 3 for preview in previews_sent
    )


def test_a_picture_in_a_batch_is_the_picture_alone() -> None:
    """Same noise by its own seed; kernels for two are not those for one, so to one grey level."""
    opened_studio = studio()
    jobs = [
        small("a", seed=3, prompt="a red apple"),
        small("b", seed=4, prompt="a blue car and a tree"),
    ]
    together = draw(opened_studio, jobs).pictures.astype(int)
    alone = [draw(opened_studio, [job_]).pictures[0].astype(int) for job_ in jobs]
    for position in range(2):
        assert np.abs(together[position] - alone[position]).max() <= 1
    assert np.abs(alone[0] - alone[1]).max() > 1


SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_aborted_neighbour_leaves_nothing_behind(name: str) -> None:
    opened_studio = open_studio(msgspec.structs.replace(SETTINGS, scheduler=name))
    before = draw(opened_studio, [small()]).pictures
    for cut in (1, 3):
        neighbour = small("other", seed=9, steps=5)
        left = [cut]

        def waiting(left: list[int] = left, neighbour: Job = neighbour) -> list[Job]:
            left[0] -= 1
            return [neighbour] if left[0] >= 0 else []

        with pytest.raises(NobodyWaits):
            opened_studio.draw([neighbour], Watch([neighbour], waiting))
    np.testing.assert_array_equal(draw(opened_studio, [small()]).pictures, before)
    opened_studio.stack.close()


def test_cancelled_means_no_further_step() -> None:
    opened_studio = studio()
    requested, looks = small(steps=20), [0]

    def until_the_third() -> list[Job]:
        looks[0] += 1
        return [requested] if looks[0] <= 3 else []

    watch = Watch([requested], until_the_third)
    with pytest.raises(NobodyWaits):
        opened_studio.draw([requested], watch)
    assert watch.step == 3


def test_each_step_is_a_sign_of_life() -> None:
    opened_studio, beats = studio(), list[int]()
    opened_studio.beat = lambda: beats.append(1)
    draw(opened_studio, [small(steps=4)])
    opened_studio.beat = lambda: None
    assert len(beats) == 4


def test_no_preview_after_close() -> None:
    opened_studio, previews_sent = studio(), list[Preview]()
    previews = previews_into(previews_sent, opened_studio)
    jobs = [small(previews=2)]
    previews.open(jobs)
    previews.close("a")
    opened_studio.draw(jobs, Watch(jobs, lambda: jobs, previews))
    previews.flush()
    assert not previews_sent


def test_from_a_picture() -> None:
    opened_studio = studio("sd15")
    started = draw(opened_studio, [small(image=picture(), strength=0.5)])
    assert started.pictures.shape == (1, 32, 32, 3)
    assert not np.array_equal(started.pictures, draw(opened_studio, [small()]).pictures)
    with pytest.raises(BadWorkload, match="cannot be read"):
        draw(opened_studio, [small(image=b"no picture", strength=0.5)])


def test_what_the_pipeline_cannot_take_is_said() -> None:
    with pytest.raises(BadWorkload, match="negative_prompt"):
        open_without_negative().arguments(_Bare(), [small(negative_prompt="x")])


class _Bare:
    def __call__(
        self, prompt: object, num_inference_steps: int, generator: object, output_type: str
    ) -> None: ...


def open_without_negative() -> Studio:
    return studio()


def test_what_gives_no_pictures_is_refused() -> None:
    sound = SimpleNamespace(audios=np.zeros((1, 2, 100)))
    with pytest.raises(BadInput, match="gave SimpleNamespace, not pictures"):
        as_pixels(sound)


def test_a_profiled_job_carries_its_session() -> None:
    opened_studio, requested = studio(), small(profile=True)
    session = msgspec.json.decode(
        opened_studio.session(draw(opened_studio, [requested]), requested), type=Session
    )
    assert session.row("denoise") is not None
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert session.workload.prompts == ("a red apple",)
