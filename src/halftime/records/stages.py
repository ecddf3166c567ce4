"""The stages of a call as one table: a new stage name, or a component's home, is added here.

The ledger's order, the profiler's wrappers, the trace reader and the drawings all read this table.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Place(NamedTuple):
    """A stage of the call and a part of it: where in the ledger a span's time goes."""

    stage: str
    part: str


class Stage(NamedTuple):
    """One stage of a call, and what of a pipeline belongs to it."""

    name: str
    # part -> component names (diffusers' own; combined pipelines add a prefix, pairs a number;
    # a name that begins with '=' takes no prefix, since it says nothing alone)
    components: dict[str, str] = {}
    # methods of a component that count here, wherever the component itself belongs: (part, method)
    component_methods: tuple[tuple[str, str], ...] = ()
    # methods of the pipeline itself; the components that they call keep their own stage
    pipeline_methods: str = ""
    # blocks of a modular pipeline; 'prepare*' is each that begins so
    blocks: str = ""
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
        components={"patchifier": "pachifier patchifier"},
        pipeline_methods="prepare_latents prepare_image_latents prepare_mask_latents prepare_image "
        "prepare_control_image check_inputs get_timesteps",
        blocks="prepare* set_* input *_input *_inputs preprocess resize *_resize add_noise* setup "
        "create_mask_latents controlnet controlnet_union pack_*",
        colour=5,
    ),
    Stage(
        "encode_prompt",
        components={
            "tokenizer": "tokenizer text_processor caption_processor prompt_upsampler_processor "
            "=processor",
            "text_encoder": "text_encoder language_model prompt_encoder mllm llm "
            "projection_model text_proj connectors =bert",
            "conditioner": "condition_encoder text_conditioner duration_embedder duration_head "
            "vision_language_encoder qformer learned_classifier_free_sampling_embeddings "
            "audio_token_detokenizer",
            "prompt_enhancer": "prompt_enhancer prompt_enhancer_head prompt_upsampler "
            "caption_generator =pe",
        },
        pipeline_methods="encode_prompt _encode_prompt",
        blocks="text_encoder text text_conditioning tokenize prompt_* connect connectors "
        "condition_encoder duration transfer_text action_text",
        colour=1,
    ),
    Stage(
        "encode_image",
        components={
            "image_encoder": "image_encoder feature_extractor vision_encoder image_embedder "
            "image_project image_normalizer siglip",
            "depth_estimator": "depth_estimator",
        },
        component_methods=(("image_processor", "__call__"),),
        pipeline_methods="encode_image prepare_ip_adapter_image_embeds",
        blocks="image_encoder ip_adapter reference_encoder *_image_encoder",
    ),
    Stage(
        "vae_encode",
        components={"vae": "vae_encoder"},
        component_methods=(("vae", "encode"),),
        blocks="vae_encoder video_encoder *_vae_encoder encode",
        colour=3,
    ),
    Stage("before the steps"),
    Stage(
        "denoise",
        components={
            "denoiser": "unet transformer dit controlnet adapter motion_adapter prior decoder "
            "transformer_ref super_res_first super_res_last =model",
            "scheduler": "scheduler",
            "guider": "guider",
        },
        colour=2,
    ),
    Stage("steps (a guess)"),  # a repetition in a recording that names nothing
    Stage("upsample", components={"upsampler": "latent_upsampler latent_upscaler"}),
    Stage(
        "vae_decode",
        components={
            "vae": "vae vqgan movq vqvae image_vae video_vae audio_vae vae_decoder sound_tokenizer",
            "renderer": "shap_e_renderer",
        },
        pipeline_methods="decode_latents",
        blocks="decode decode_* *_decode",
        colour=3,
    ),
    Stage(
        "postprocess",
        components={
            "image_processor": "processor",
            "vocoder": "vocoder",
            "safety_checker": "safety_checker watermark watermarker",
            "text_decoder": "text_decoder",
        },
        pipeline_methods="mel_spectrogram_to_waveform score_waveforms run_safety_checker "
        "numpy_to_pil",
        blocks="postprocess mask_overlay",
        colour=4,
    ),
    Stage("after the steps"),
    Stage("offload", pipeline_methods="maybe_free_model_hooks"),
    Stage("compilation"),  # torch.compile at work inside of the call, by the part that it compiles
)
COMPILATION = "compilation"
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


def _pattern(name: str) -> str:
    exact = name.startswith("=")
    return f"{name[1:]}" if exact else rf"(?:.*_)?{name}(?:_\d+)?"


@cache
def _components() -> tuple[tuple[re.Pattern[str], Place], ...]:
    """The longest name first: a text decoder is no decoder."""
    names = [
        (name, Place(stage.name, part))
        for stage in STAGES
        for part, names in stage.components.items()
        for name in names.split()
    ]
    names.sort(key=lambda row: -len(row[0]))
    return tuple((re.compile(_pattern(name)), home) for name, home in names)


@cache
def _blocks() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(name.replace("*", ".*")), stage.name)
        for stage in STAGES
        for name in stage.blocks.split()
    )


def place_of(component: str) -> Place | None:
    """The stage and part of a component by its name, or None where the name is not known."""
    return next((home for pattern, home in _components() if pattern.fullmatch(component)), None)


def stage_of_block(name: str) -> str | None:
    """The stage of a modular pipeline's block by its name, or None: its components tell more."""
    return next((stage for pattern, stage in _blocks() if pattern.fullmatch(name)), None)
