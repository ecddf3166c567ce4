"""The stages of a call as one table: a new stage name, or a component's home, is added here.

The ledger's order, the profiler's wrappers, the trace reader and the drawings all read this table.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Place(NamedTuple):
    """A stage of the call and a part of it: where in the ledger a span's time goes."""

    stage: str
    part: str


class Stage(NamedTuple):
    """One stage of a call, and what of a pipeline belongs to it."""

    name: str
    # part -> component names (diffusers' own; combined pipelines add a prefix, pairs a number)
    components: dict[str, str] = {}
    # methods of a component that count here, wherever the component itself belongs: (part, method)
    component_methods: tuple[tuple[str, str], ...] = ()
    # methods of the pipeline itself; the components that they call keep their own stage
    pipeline_methods: str = ""
    colour: int | None = None  # of the page's series; None shares the last one


# In the order in which a call goes through them.
STAGES: tuple[Stage, ...] = (
    Stage(
        "prepare",
        component_methods=(
            ("image_processor", "preprocess"),
            ("image_processor", "preprocess_video"),
            ("scheduler", "set_timesteps"),
        ),
        pipeline_methods="prepare_latents prepare_image_latents prepare_mask_latents prepare_image "
        "prepare_control_image check_inputs get_timesteps",
        colour=5,
    ),
    Stage(
        "encode_prompt",
        components={
            "tokenizer": "tokenizer text_processor",
            "text_encoder": "text_encoder language_model prompt_encoder mllm llm "
            "projection_model text_proj connectors",
        },
        pipeline_methods="encode_prompt _encode_prompt",
        colour=1,
    ),
    Stage(
        "encode_image",
        components={"image_encoder": "image_encoder feature_extractor vision_encoder"},
        component_methods=(("image_processor", "__call__"),),
        pipeline_methods="encode_image prepare_ip_adapter_image_embeds",
    ),
    Stage("vae_encode", component_methods=(("vae", "encode"),), colour=3),
    Stage("before the steps"),
    Stage(
        "denoise",
        components={
            "denoiser": "unet transformer dit controlnet adapter motion_adapter prior decoder",
            "scheduler": "scheduler",
        },
        colour=2,
    ),
    Stage("steps (a guess)"),  # a repetition in a recording that names nothing
    Stage(
        "vae_decode",
        components={"vae": "vae vqgan movq vqvae image_vae video_vae audio_vae"},
        pipeline_methods="decode_latents",
        colour=3,
    ),
    Stage(
        "postprocess",
        components={
            "image_processor": "processor",
            "vocoder": "vocoder",
            "safety_checker": "safety_checker watermark",
        },
        pipeline_methods="mel_spectrogram_to_waveform score_waveforms run_safety_checker",
        colour=4,
    ),
    Stage("after the steps"),
    Stage("offload", pipeline_methods="maybe_free_model_hooks"),
)
STAGE_ORDER = tuple(stage.name for stage in STAGES)
COLOURS = {stage.name: stage.colour for stage in STAGES if stage.colour is not None}
# (part, method) -> place: what a method does matters more than whose it is.
METHOD_PLACES = {
    (part, method): Place(stage.name, part)
    for stage in STAGES
    for part, method in stage.component_methods
}
PIPELINE_METHODS = tuple(
    (method, stage.name) for stage in STAGES for method in stage.pipeline_methods.split()
)
_COMPONENTS = tuple(
    (re.compile(rf"(?:.*_)?(?:{names.replace(' ', '|')})(?:_\d+)?"), Place(stage.name, part))
    for stage in STAGES
    for part, names in stage.components.items()
)


def place_of(component: str) -> Place | None:
    """The stage and part of a component by its name, or None where the name is not known."""
    return next((home for pattern, home in _COMPONENTS if pattern.fullmatch(component)), None)
