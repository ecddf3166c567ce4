"""The pipeline as the worker has it: what a batch, a preview, an abort and a neighbour may not
change."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache

import diffusers
import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from serve_helpers import job

from halftime.base.errors import BadInput, BadWorkload, HalftimeError
from halftime.records import Session
from halftime.verbs.serve.messages import EngineSettings, Job, Preview
from halftime.verbs.serve.preview import Previews, Unpacker
from halftime.verbs.serve.stepping import NobodyWaits, Watch
from halftime.verbs.serve.studio import Drawing, Studio, open_studio

SETTINGS = EngineSettings(model="serve_models:sdxl", steps=(4,), sizes=((32, 32),), tiny_vae=None)


@cache
def studio(model: str = "sdxl") -> Studio:
    return open_studio(msgspec.structs.replace(SETTINGS, model=f"serve_models:{model}"))


def small(name: str = "a", **changes: object) -> Job:
    return job(name, **{"width": 32, "height": 32, "steps": 4, **changes})


def draw(place: Studio, jobs: Sequence[Job], previews: Previews | None = None) -> Drawing:
    return place.draw(jobs, Watch(jobs, lambda: jobs, previews))


def picture(size: int = 48) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def tiny_for(place: Studio) -> diffusers.AutoencoderTiny:
    channels = place.pipeline.vae.config.latent_channels
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
    ).eval()


def previews_into(found: list[Preview], place: Studio) -> Previews:
    previews = Previews(tiny_for(place), found.append, Unpacker(place.pipeline))
    previews.start()
    return previews


class Latents:
    """Catches what the VAE is given: the final latents."""

    def __init__(self, place: Studio) -> None:
        self.seen: list[torch.Tensor] = []
        decode = place.pipeline.vae.decode

        def catching(latents: torch.Tensor, *args: object, **kwargs: object) -> object:
            self.seen.append(latents.clone())
            return decode(latents, *args, **kwargs)

        self.undo: Callable[[], None] = lambda: vars(place.pipeline.vae).__setitem__(
            "decode", decode
        )
        vars(place.pipeline.vae)["decode"] = catching


def test_a_picture_is_what_the_bare_pipeline_draws() -> None:
    import serve_models

    bare = serve_models.sdxl()
    wanted = bare(
        "a red apple",
        width=32,
        height=32,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    drawing = draw(studio(), [small(seed=7)])
    np.testing.assert_array_equal(drawing.pictures[0], np.asarray(wanted))


def test_stages_add_up_to_the_call() -> None:
    drawing = draw(studio(), [small()])
    assert sum(drawing.stages.values()) == pytest.approx(drawing.seconds)
    assert {"encode_prompt", "denoise", "vae_decode", "postprocess"} <= set(drawing.stages)


@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux"])
def test_final_latents_are_the_same_bit_for_bit_with_and_without_previews(model: str) -> None:
    place, found = studio(model), list[Preview]()
    watched = Latents(place)
    try:
        without = draw(place, [small()])
        previews = previews_into(found, place)
        jobs = [small(previews=3)]
        previews.open(jobs)
        with_them = place.draw(jobs, Watch(jobs, lambda: jobs, previews))
        previews.flush()
    finally:
        watched.undo()
    assert torch.equal(watched.seen[0], watched.seen[1])
    np.testing.assert_array_equal(without.pictures, with_them.pictures)
    assert found
    assert [each.index for each in found] == list(range(len(found)))
    assert all(len(each.pixels) == each.width * each.height * 3 for each in found)


def test_a_picture_in_a_batch_is_the_picture_alone() -> None:
    """Same noise by its own seed; kernels for two are not those for one, so to one grey level."""
    place = studio()
    jobs = [
        small("a", seed=3, prompt="a red apple"),
        small("b", seed=4, prompt="a blue car and a tree"),
    ]
    together = draw(place, jobs).pictures.astype(int)
    alone = [draw(place, [each]).pictures[0].astype(int) for each in jobs]
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
    place = open_studio(msgspec.structs.replace(SETTINGS, scheduler=name))
    before = draw(place, [small()]).pictures
    for cut in (1, 3):
        other = small("other", seed=9, steps=5)
        left = [cut]

        def wanted(left: list[int] = left, other: Job = other) -> list[Job]:
            left[0] -= 1
            return [other] if left[0] >= 0 else []

        with pytest.raises(NobodyWaits):
            place.draw([other], Watch([other], wanted))
    np.testing.assert_array_equal(draw(place, [small()]).pictures, before)
    place.stack.close()


def test_cancelled_means_no_further_step() -> None:
    place = studio()
    wanted, asked = small(steps=20), [0]

    def until_the_third() -> list[Job]:
        asked[0] += 1
        return [wanted] if asked[0] <= 3 else []

    watch = Watch([wanted], until_the_third)
    with pytest.raises(NobodyWaits):
        place.draw([wanted], watch)
    assert watch.step == 3


def test_no_preview_after_close() -> None:
    place, found = studio(), list[Preview]()
    previews = previews_into(found, place)
    jobs = [small(previews=2)]
    previews.open(jobs)
    previews.close("a")
    place.draw(jobs, Watch(jobs, lambda: jobs, previews))
    previews.flush()
    assert not found


def test_from_a_picture() -> None:
    place = studio("sd15")
    started = draw(place, [small(image=picture(), strength=0.5)])
    assert started.pictures.shape == (1, 32, 32, 3)
    assert not np.array_equal(started.pictures, draw(place, [small()]).pictures)
    with pytest.raises(BadWorkload, match="cannot be read"):
        draw(place, [small(image=b"no picture", strength=0.5)])


def test_what_the_pipeline_cannot_take_is_said() -> None:
    with pytest.raises(BadWorkload, match="negative_prompt"):
        open_without_negative().arguments(_Bare(), [small(negative_prompt="x")])


class _Bare:
    def __call__(
        self, prompt: object, num_inference_steps: int, generator: object, output_type: str
    ) -> None: ...


def open_without_negative() -> Studio:
    return studio()


def test_a_pipeline_of_films_is_refused() -> None:
    with pytest.raises((BadInput, HalftimeError), match="served"):
        draw(studio("wan"), [small(width=16, height=16)])


def test_a_profiled_job_carries_its_session() -> None:
    place, wanted = studio(), small(profile=True)
    session = msgspec.json.decode(place.session(draw(place, [wanted]), wanted), type=Session)
    assert session.row("denoise") is not None
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert session.workload.prompts == ("a red apple",)
