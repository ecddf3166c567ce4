"""step-cache of the kind text-kv on a tiny Nucleus-MoE: what it keeps is exact, and of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.base.errors import DoesNotApply
from halftime.fix.apply import choose
from halftime.records.recipe import Choice, Plan
from tiny_pipelines import BREADTH

if not hasattr(diffusers, "TextKVCacheConfig"):
    pytest.skip("this diffusers has no text K/V cache", allow_module_level=True)

TINY = BREADTH["nucleusmoe"]
CACHE = Choice(name="step-cache", settings={"kind": "text-kv"})
STEPS = 3
CPU = torch.device("cpu")
Values = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    return TINY.build()


def draw(pipeline: DiffusionPipeline, **more: object) -> np.ndarray:
    return drawing(lambda: pipeline(**{**TINY.arguments(STEPS), **more}))


def cached(pipeline: DiffusionPipeline) -> halftime.Applied:
    return halftime.applied(pipeline, [CACHE], probe=False)


@contextmanager
def projected(pipeline: DiffusionPipeline) -> Iterator[list[int]]:
    """One entry for each time that a block projects a text."""
    seen: list[int] = []
    block = pipeline.transformer.transformer_blocks[0]
    with block.encoder_proj.register_forward_hook(lambda *_: seen.append(1)):
        yield seen


# ---- its pictures


def test_each_prompt_and_size_draws_its_own_picture_bit_for_bit(
    pipeline: DiffusionPipeline,
) -> None:
    """A text's keys are turned by the picture's height and width: 64x16 has as many tokens."""
    calls: list[dict[str, object]] = [
        {},
        {"prompt": "a cat"},
        {"prompt": "a cat", "height": 64, "width": 16},
        {"prompt": ["a cat", "a red apple"], "negative_prompt": ["red", "cat"]},
        {"guidance_scale": 1.0},
        {},
    ]
    plain, before = [draw(pipeline, **call) for call in calls], fingerprint(pipeline)
    assert not np.array_equal(plain[0], plain[1])
    with cached(pipeline):
        for call, picture in zip(calls, plain, strict=True):
            with projected(pipeline) as seen:
                assert np.array_equal(draw(pipeline, **call), picture), call
            assert len(seen) == (1 if "guidance_scale" in call else 2)  # once for each text
    assert changes(before, fingerprint(pipeline)) == []
    with projected(pipeline) as seen:
        assert np.array_equal(draw(pipeline), plain[0])
    assert len(seen) == 2 * STEPS


class Stopped(Exception):
    """What a user's callback raises."""


def stop(*_: object) -> Values:
    raise Stopped


@torch.no_grad()
def test_a_call_that_raised_leaves_nothing(pipeline: DiffusionPipeline) -> None:
    """A picture of another form and as many tokens, from the same text; another text where it
    was."""
    text, mask = pipeline.encode_prompt("a cat", max_sequence_length=16)
    other = pipeline.encode_prompt("red", max_sequence_length=16)[0]
    given = {"prompt": None, "prompt_embeds": text, "prompt_embeds_mask": mask}
    tall = {**given, "height": 64, "width": 16}
    expected_tall = draw(pipeline, **tall)
    with cached(pipeline):
        with pytest.raises(Stopped):
            draw(pipeline, **given, callback_on_step_end=stop)
        inside_tall = draw(pipeline, **tall)
        with pytest.raises(Stopped):
            draw(pipeline, **given, callback_on_step_end=stop)
        text.copy_(other)
        inside = draw(pipeline, **given)
    assert np.array_equal(inside_tall, expected_tall)
    assert np.array_equal(inside, draw(pipeline, **given))


# ---- what changes in the middle of a call


def a_new_text(pipeline: DiffusionPipeline, step: int, _: object, values: Values) -> Values:
    return {**values, "prompt_embeds": values["prompt_embeds"].roll(step + 1, -1)}


def a_text_in_place(pipeline: DiffusionPipeline, step: int, _: object, values: Values) -> Values:
    values["prompt_embeds"].copy_(values["prompt_embeds"].roll(1, -1))
    return values


def a_weight(pipeline: DiffusionPipeline, step: int, _: object, values: Values) -> Values:
    """As an adapter's weight is set by the step."""
    pipeline.transformer.transformer_blocks[1].attn.add_v_proj.weight.mul_((-1.0) ** step * 4)
    return values


@pytest.mark.parametrize("in_mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", [a_new_text, a_text_in_place, a_weight])
def test_what_a_callback_changes_is_projected_anew(
    change: Callable[..., Values], in_mode: Callable[[], object], pipeline: DiffusionPipeline
) -> None:
    weight = pipeline.transformer.transformer_blocks[1].attn.add_v_proj.weight
    content = weight.detach().clone()

    def changed() -> np.ndarray:
        with torch.no_grad():
            weight.copy_(content)
        with in_mode():  # type: ignore[attr-defined]
            return draw(
                pipeline,
                callback_on_step_end=change,
                callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
            )

    plain = changed()
    with cached(pipeline):
        inside = changed()
    with torch.no_grad():
        weight.copy_(content)
    assert np.array_equal(inside, plain)
    assert not np.array_equal(plain, draw(pipeline))


# ---- beside group offload


def moved(level: str, **settings: object) -> DiffusionPipeline:
    pipeline = TINY.build()
    diffusers.hooks.apply_group_offloading(
        pipeline.transformer,
        onload_device=CPU,
        offload_device=CPU,
        offload_type=level,
        **settings,
    )
    return pipeline


def test_weights_that_come_with_the_block_are_refused() -> None:
    """A block's text is projected before the block is called: with weights that are elsewhere."""
    with pytest.raises(DoesNotApply, match="block by block.*leaf_level"), cached(
        moved("block_level", num_blocks_per_group=1)
    ):
        pass
    for kind in ("group", "auto", "leaf", "model"):
        offload = Choice(name="offload", settings={"kind": kind})
        try:
            choose(Plan(fixes=(CACHE, offload)))
            assert kind in ("leaf", "model")
        except DoesNotApply as error:
            assert kind in ("group", "auto")
            assert "block by block" in str(error)


def test_weights_that_come_with_each_layer_are_there(pipeline: DiffusionPipeline) -> None:
    by_layers = moved("leaf_level")
    with cached(by_layers), projected(by_layers) as seen:
        assert np.array_equal(draw(by_layers), draw(pipeline))
    assert len(seen) == 2
