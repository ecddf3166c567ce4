"""step-cache: every kind, on transformers that set contexts and that do not, after calls that ended
in any way, and beside other fixes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.fix.apply import choose
from halftime.fix.conditioning import conditioning_of
from halftime.fix.guard import why_not
from halftime.fix.step_cache import KINDS
from halftime.fix.table import FIXES
from halftime.records.base import Json
from halftime.records.recipe import Choice, Plan
from halftime.upstream import diffusers_caches
from tiny_pipelines import FAMILIES, PIPELINES

TINY = {**PIPELINES, **FAMILIES}
STEPS = 6


def cache(kind: str, **settings: Json) -> Choice:
    return Choice(name="step-cache", settings={"kind": kind, "threshold": 0.3, **settings})


def refusal(name: str, kind: str) -> str | None:
    pipeline = TINY[name].build()
    return why_not(
        FIXES["step-cache"], pipeline, FIXES["step-cache"].with_defaults(cache(kind).settings)
    )


def draws(name: str, pipeline: DiffusionPipeline) -> Callable[..., np.ndarray]:
    return lambda steps=STEPS, **more: drawing(
        lambda: pipeline(**{**TINY[name].arguments(steps), **more})
    )


class Stopped(Exception):
    """What a user's callback raises."""


def stop(*_: object) -> dict[str, object]:
    raise Stopped


# ---- every kind


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("flux", "first-block mag taylorseer taylorseer-lite pyramid-attention faster"),
        ("sd3", "mag taylorseer pyramid-attention faster"),
        ("wan", "first-block mag sea"),
        ("qwenimage", "mag taylorseer-lite"),
    ],
)
def test_each_kind_reuses_steps_and_is_undone(name: str, kinds: str) -> None:
    pipeline = TINY[name].build()
    draw = draws(name, pipeline)
    plain, before = draw(), fingerprint(pipeline)
    for kind in kinds.split():
        with halftime.applied(pipeline, [cache(kind)], probe=False):
            draw()
            second = draw()
        assert np.isfinite(second).all()
        assert not np.array_equal(second, plain), kind  # else nothing was reused
        assert np.array_equal(draw(), plain), kind
        assert changes(before, fingerprint(pipeline)) == [], kind


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("sd3", "first-block", "cannot subtract"),
        ("flux", "sea", "does not know FluxTransformer2DModel"),
        ("flux", "text-kv", "knows none of its layers"),
        ("flux", "deep", "for UNets"),
        ("sd15", "mag", "for transformers"),
        ("flux", "teacache", "allowed are: , deep, first-block"),
    ],
)
def test_what_a_kind_cannot_do_is_refused_by_name(name: str, kind: str, words: str) -> None:
    assert words in str(refusal(name, kind))


def test_evaluations_that_nothing_tells_apart_are_refused() -> None:
    """No context and no conditioning: prompt and negative prompt would answer for each other."""
    pipeline = FAMILIES["dit"].build()
    settings = FIXES["step-cache"].with_defaults({"kind": "taylorseer"})
    told = why_not(FIXES["step-cache"], pipeline, settings)
    assert told is None or "told apart" not in told

    def forward(hidden_states: torch.Tensor, timestep: torch.Tensor) -> None: ...

    pipeline.transformer.forward = forward
    assert "told apart" in str(why_not(FIXES["step-cache"], pipeline, settings))


def test_a_text_tells_evaluations_apart_and_not_its_mask() -> None:
    """Qwen-Image gives the mask first, and prompts of one length may share it."""
    text, mask = torch.zeros(1, 2, 3), torch.ones(1, 2)
    given = {"encoder_hidden_states_mask": mask, "encoder_hidden_states": [None, text]}
    assert conditioning_of(given) is text
    assert conditioning_of({**given, "encoder_hidden_states": None}) is mask


# ---- calls that end in any way


@pytest.mark.parametrize(
    "kind", ["first-block", "mag", "taylorseer", "pyramid-attention", "faster"]
)
def test_a_call_that_raised_leaves_nothing_to_the_next(kind: str) -> None:
    """A user's error, or the server's cancellation, at step 3; then another size, and the same."""
    pipeline = PIPELINES["flux"].build()
    draw = draws("flux", pipeline)
    small = {"height": 16, "width": 16}

    def stop_at_three(_: object, step: int, __: object, values: dict[str, object]) -> object:
        return stop() if step == 3 else values

    with halftime.applied(pipeline, [cache(kind)], probe=False):
        draw(), draw(**small), draw()  # mag calibrates in the first
        expected, expected_small = draw(), draw(**small)
        for arguments, picture in (({}, expected), (small, expected_small)):
            with pytest.raises(Stopped):
                draw(callback_on_step_end=stop_at_three)
            assert np.array_equal(draw(**arguments), picture)


def test_two_contexts_have_a_state_each_where_a_cache_has_one() -> None:
    """Wan evaluates both prompts one after the other. diffusers' attention caches keep one state:
    were it shared, guidance would be between a prompt and itself."""
    pipeline = PIPELINES["wan"].build()
    draw = draws("wan", pipeline)
    iterations: list[int] = []

    def note(_: object, __: int, ___: object, values: dict[str, object]) -> dict[str, object]:
        hooks = diffusers_caches.stateful_hooks(pipeline.transformer)
        iterations.append(next(hook.state.iteration for hook in hooks if hasattr(hook, "state")))
        return values

    for kind in ("pyramid-attention", "faster"):
        with halftime.applied(pipeline, [cache(kind, every=2)], probe=False):
            draw(guidance_scale=5.0, callback_on_step_end=note)
    assert iterations == [*range(1, STEPS + 1)] * 2  # of one context, not of both


# ---- MagCache measures its ratios


def test_mag_draws_the_plain_picture_first_and_skips_from_then_on() -> None:
    pipeline = PIPELINES["flux"].build()
    draw = draws("flux", pipeline)
    plain, plain_of_five = draw(), draw(5)
    with halftime.applied(pipeline, [cache("mag")], probe=False):
        with pytest.raises(Stopped):
            draw(callback_on_step_end=stop)  # measured nothing
        assert np.array_equal(draw(), plain)
        later = draw()
        assert not np.array_equal(later, plain)
        assert np.array_equal(draw(5), plain_of_five)  # another number of steps
        assert not np.array_equal(draw(5), plain_of_five)
        assert np.array_equal(draw(), later)


def test_mag_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = PIPELINES["flux"].build()
    with halftime.applied(pipeline, [cache("mag")], probe=False):
        draws("flux", pipeline)(2)
    assert capsys.readouterr().out == ""


# ---- beside guidance


def batches(pipeline: DiffusionPipeline, block: nn.Module, draw: Callable[[], object]) -> list[int]:
    """The batch of each evaluation of a block."""
    seen: list[int] = []

    def note(_: nn.Module, __: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen.append(len(kwargs["hidden_states"]))

    with block.register_forward_pre_hook(note, with_kwargs=True):
        draw()
    return seen


def test_faster_leaves_out_the_unconditional_half_where_there_is_one() -> None:
    pipeline = PIPELINES["sd3"].build()
    draw = draws("sd3", pipeline)
    block = pipeline.transformer.transformer_blocks[0]
    with halftime.applied(pipeline, [cache("faster")], probe=False):
        guided = batches(pipeline, block, lambda: draw(8))
        plain = batches(pipeline, block, lambda: draw(8, guidance_scale=1.0))
    assert guided.count(1) >= 2
    assert guided[0] == 2
    assert plain == [1] * 8


def test_a_cache_beside_guidance_on_part_of_the_steps() -> None:
    """The batch is halved in the middle of the call: what the whole one left is not used."""
    pipeline = PIPELINES["sd3"].build()
    draw = draws("sd3", pipeline)
    interval = Choice(name="guidance-interval", settings={"stop": 0.5})
    for kind in ("mag", "taylorseer", "pyramid-attention"):
        with halftime.applied(pipeline, [cache(kind), interval], probe=False):
            draw()
            assert np.isfinite(draw()).all()


# ---- beside compilation


@pytest.mark.parametrize("kind", [*KINDS, "deep"])
def test_which_kinds_go_with_which_compilation(kind: str) -> None:
    def refused(**settings: Json) -> bool:
        plan = Plan(fixes=(cache(kind), Choice(name="denoiser-compile", settings=settings)))
        try:
            choose(plan)
        except halftime.base.errors.DoesNotApply:
            return True
        return False

    inside = kind in ("taylorseer", "pyramid-attention", "faster", "text-kv")
    assert refused(region="blocks", fullgraph=True) is inside
    assert refused(region="whole") is (kind not in ("first-block", "deep"))
    assert refused(region="whole", fullgraph=True)
