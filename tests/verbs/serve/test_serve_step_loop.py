"""A picture drawn step by step, put aside and beside others, is the one that the pipeline draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime import bundled
from halftime.base.errors import DoesNotApply
from halftime.fix.table_scheduler import tabled
from halftime.verbs.serve.step_loop import Loop, advance, begin, finish, refusal
from halftime.verbs.serve.step_policies import largest
from tiny_pipelines import PIPELINES

REQUESTS = (("a red apple", 3, 1), ("a flat icon of a kite", 1, 2), ("an owl", 2, 3))


@cache
def pipeline(name: str) -> DiffusionPipeline:
    built = bundled.load() if name == "bundled" else PIPELINES[name].build()
    built.set_progress_bar_config(disable=True)
    return built


def call(prompt: str, steps: int, seed: int) -> dict[str, object]:
    return {
        "prompt": [prompt],
        "num_inference_steps": steps,
        "generator": [torch.Generator().manual_seed(seed)],
        "output_type": "np",
        "guidance_scale": 2.5,
        "width": 32,
        "height": 32,
    }


def pixels(result: object) -> np.ndarray:
    (image,) = result.images  # type: ignore[attr-defined]
    return np.asarray((image * 255).round().astype(int))


@cache
def solo(name: str) -> list[np.ndarray]:
    return [pixels(pipeline(name)(**call(*request))) for request in REQUESTS]


def begun(name: str, scheduler: SchedulerMixin | None = None) -> list[Loop]:
    drawing = pipeline(name)
    return [begin(drawing, scheduler or drawing.scheduler, call(*request)) for request in REQUESTS]


def drawn(name: str, loops: Sequence[Loop], turns: Sequence[int], most: int) -> list[np.ndarray]:
    """Each number of `turns` says who is next; up to `most` go together."""
    numbers = [*turns, *range(100)]
    while active := [loop for loop in loops if not loop.done]:
        start = numbers.pop(0) % len(active)
        line = [*active[start:], *active[:start]]
        advance(pipeline(name), line[: largest(range(1, most + 1), len(line))])
    return [pixels(finish(pipeline(name), loop)) for loop in loops]


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 3))
def test_any_interleaving_on_the_bundled_model(turns: list[int], most: int) -> None:
    pictures = drawn("bundled", begun("bundled"), turns, most)
    for picture, own in zip(pictures, solo("bundled"), strict=True):
        assert np.abs(picture - own).max() <= (0 if most == 1 else 1)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_each_family_alone_bit_for_bit_and_beside_others_within_a_level(name: str) -> None:
    for most in (1, 3):
        pictures = drawn(name, begun(name), (0, 2, 1), most)
        for picture, own in zip(pictures, solo(name), strict=True):
            assert np.abs(picture - own).max() <= (0 if most == 1 else 1)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DPMSolverMultistepScheduler,  # remembers
        diffusers.EulerAncestralDiscreteScheduler,  # draws noise
        diffusers.HeunDiscreteScheduler,  # evaluates twice a step
    ],
)
def test_solvers_that_remember_draw_noise_and_step_twice(scheduler: type[SchedulerMixin]) -> None:
    drawing = pipeline("sdxl")
    before = drawing.scheduler
    solver = scheduler.from_config(before.config)
    loops = begun("sdxl", solver)
    pictures = drawn("sdxl", loops, (1, 0, 2, 0), 1)
    try:
        drawing.scheduler = solver
        own = [pixels(drawing(**call(*request))) for request in REQUESTS]
    finally:
        drawing.scheduler = before
    for picture, expected in zip(pictures, own, strict=True):
        np.testing.assert_array_equal(picture, expected)


def test_requests_of_several_solvers_and_tables_share_a_pass() -> None:
    drawing = pipeline("sdxl")
    karras = diffusers.DPMSolverMultistepScheduler.from_config(
        drawing.scheduler.config, use_karras_sigmas=True
    )
    table = tabled(drawing.scheduler)
    solvers = (table, karras, table)
    own = []
    for solver, request in zip(solvers, REQUESTS, strict=True):
        loop = begin(drawing, solver, call(*request))
        while not loop.done:
            advance(drawing, [loop])
        own.append(pixels(finish(drawing, loop)))
    loops = [
        begin(drawing, solver, call(*request))
        for solver, request in zip(solvers, REQUESTS, strict=True)
    ]
    for picture, expected in zip(drawn("sdxl", loops, (), 3), own, strict=True):
        assert np.abs(picture - expected).max() <= 1


def test_what_is_put_aside_is_small_and_leaves_the_pipeline_alone() -> None:
    drawing = pipeline("sdxl")
    before = dict(vars(drawing))
    loop = begun("sdxl")[0]
    advance(drawing, [loop])
    finish(drawing, loop)
    assert vars(drawing) == before
    tensors = loop.latents.numel() * loop.latents.element_size()
    assert tensors < loop.size < 2**20


def test_a_pass_that_fails_changes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = pipeline("sdxl")
    loops = begun("sdxl")
    latents = [loop.latents.clone() for loop in loops]

    def broken(*args: object, **kwargs: object) -> object:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(drawing.unet, "forward", broken)
        with pytest.raises(RuntimeError, match="no"):
            advance(drawing, loops)
    assert [loop.step for loop in loops] == [0, 0, 0]
    assert all(map(torch.equal, latents, [loop.latents for loop in loops]))
    for picture, own in zip(drawn("sdxl", loops, (), 1), solo("sdxl"), strict=True):
        np.testing.assert_array_equal(picture, own)


def test_a_loop_that_is_not_known_is_refused_by_name() -> None:
    drawing = pipeline("lumina2")
    assert "Lumina2Pipeline" in (refusal(drawing) or "")
    assert refusal(pipeline("sdxl")) is None
    with pytest.raises(DoesNotApply, match="Lumina2Pipeline"):
        begin(drawing, drawing.scheduler, call(*REQUESTS[0]))
