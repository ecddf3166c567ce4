"""The table of stages knows every component of the installed diffusers, and puts it where it is
used."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import diffusers
import pytest
from diffusers import ModularPipeline

from halftime.records.stages import place_of, stage_of_block
from halftime.upstream.hugging_face import leaf_blocks
from tiny_pipelines.unbuilt import exported, is_deprecated

PLAIN = (bool, int, float, str, list, tuple, dict, NoneType)


def kinds(annotation: object) -> list[object]:
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in kinds(part)]
    by_name = {kind.__name__: kind for kind in PLAIN}
    return [get_origin(annotation) or by_name.get(str(annotation), annotation)]


def is_component(parameter: inspect.Parameter) -> bool:
    """A setting is a number, a word, or a list of them; the rest are parts of a pipeline."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return False
    if parameter.annotation in (inspect.Parameter.empty, Any):
        return parameter.default is inspect.Parameter.empty
    return not all(kind in PLAIN for kind in kinds(parameter.annotation))


def components(kind: type) -> set[str]:
    """What a pipeline class is built of, by its signature; a modular one by its blocks."""
    if issubclass(kind, ModularPipeline):
        blocks = getattr(diffusers, kind.default_blocks_name)()
        return {spec.name for spec in blocks.expected_components}
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {parameter.name for parameter in parameters if is_component(parameter)}


CLASSES = {name: kind for name, kind in exported().items() if not is_deprecated(kind)}


def test_every_component_of_diffusers_has_a_place() -> None:
    names = {(component, name) for name, kind in CLASSES.items() for component in components(kind)}
    assert len(names) > 500
    assert {row for row in names if place_of(row[0]) is None} == set()


@pytest.mark.parametrize(
    ("component", "stage", "part"),
    [
        ("sound_tokenizer", "vae_decode", "vae"),  # an autoencoder that decodes sound
        ("text_decoder", "postprocess", "text_decoder"),
        ("caption_processor", "encode_prompt", "tokenizer"),
        ("vae_decoder", "vae_decode", "vae"),
        ("vae_encoder", "vae_encode", "vae"),
        ("decoder", "denoise", "denoiser"),
        ("processor", "encode_prompt", "tokenizer"),  # of a vision-language model
        ("image_processor", "postprocess", "image_processor"),
        ("prompt_enhancer_head", "encode_prompt", "prompt_enhancer"),
        ("guider_2", "denoise", "guider"),
        ("temporal_latent_upsampler", "upsample", "upsampler"),
        ("watermarker", "postprocess", "safety_checker"),
        ("bert", "encode_prompt", "text_encoder"),
        ("model", "denoise", "denoiser"),
    ],
)
def test_where_components_are_used(component: str, stage: str, part: str) -> None:
    assert place_of(component) == (stage, part)


@pytest.mark.parametrize("name", ["my_model", "albert", "recipe", "flux_capacitor"])
def test_a_name_that_says_nothing_has_no_place(name: str) -> None:
    assert place_of(name) is None


def test_the_blocks_of_modular_pipelines_are_mostly_known() -> None:
    """Their names are not a contract: a block that is not known is told by its components."""

    class Pipeline(ModularPipeline):
        def __init__(self, name: str) -> None:
            self._blocks = getattr(diffusers, name)()

    names = [name for name, _ in leaf_blocks(Pipeline("StableDiffusionXLAutoBlocks"))]
    stages = {name: stage_of_block(name) for name in names}
    assert stages["text_encoder"] == "encode_prompt"
    assert stages["set_timesteps"] == "prepare"
    assert sum(stage is not None for stage in stages.values()) > len(stages) / 2
