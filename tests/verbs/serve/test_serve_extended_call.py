"""A pipeline of somebody's own, whose call takes `*args, **kwargs` and hands them on, is served."""

from __future__ import annotations

import msgspec
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from test_serve_studio import SETTINGS, draw, small

import halftime
from halftime.pipeline.device import device_of
from halftime.records.recipe import Choice
from halftime.verbs.serve.studio import open_studio
from halftime.verbs.serve.warmup import offered_by
from tiny_pipelines import PIPELINES


class Extended(StableDiffusionXLPipeline):
    def __call__(self, *args: object, **kwargs: object) -> object:
        return super().__call__(*args, **kwargs)


def extended() -> DiffusionPipeline:
    pipeline = PIPELINES["sdxl"].build()
    pipeline.__class__ = Extended
    return pipeline


def test_it_is_served_with_all_that_the_call_it_extends_takes() -> None:
    settings = msgspec.structs.replace(SETTINGS, model="test_serve_extended_call:extended")
    studio = open_studio(settings)
    assert studio.default_guidance == 5.0
    assert offered_by(studio, settings).branches == ("guided", "unguided")
    arguments = studio.arguments(studio.pipeline, [small()])
    assert {"prompt", "width", "height", "guidance_scale", "output_type"} <= arguments.keys()
    assert draw(studio, [small()]).pictures.shape == (1, 32, 32, 3)


def test_it_gets_solver_steps() -> None:
    pipeline = extended()
    fix = halftime.FIXES["solver-steps"]
    assert fix.applies(pipeline, device_of(pipeline), fix.with_defaults({})) is None
    with halftime.applied(pipeline, [Choice(name="solver-steps", settings={"steps": 3})]):
        pipeline("a red apple", num_inference_steps=9, height=32, width=32, output_type="latent")
        assert len(pipeline.scheduler.timesteps) == 3
