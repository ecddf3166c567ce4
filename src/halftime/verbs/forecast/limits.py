"""What a model cannot take: sizes, frames and steps that its pipeline refuses, or silently changes.

A forecast of a call that cannot be made would be a number about nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from halftime.base.errors import BadInput
from halftime.records import Json
from halftime.verbs.forecast.models import Component, Model

if TYPE_CHECKING:
    from halftime.verbs.forecast.scenario import ForecastChoice

# VAE class -> pixels and frames per latent cell, where its configuration leaves them open.
_FACTORS = {
    "AutoencoderDC": (32, 1),
    "AutoencoderKL": (8, 1),
    "AutoencoderKLFlux2": (8, 1),
    "AutoencoderKLCogVideoX": (8, 4),
    "AutoencoderKLHunyuanVideo": (8, 4),
    "AutoencoderKLLTXVideo": (32, 8),
    "AutoencoderKLMochi": (8, 6),
    "AutoencoderKLQwenImage": (8, 4),
    "AutoencoderKLWan": (8, 4),
}
# Keys of configurations that say it, the first that is there.
_SPATIAL = ("spatial_compression_ratio", "scale_factor_spatial")
_TEMPORAL = ("temporal_compression_ratio", "scale_factor_temporal")
# Denoiser class -> latent cells along one side of a token, where its configuration leaves it open.
_PATCHES = {
    "CogVideoXTransformer3DModel": 2,
    "Flux2Transformer2DModel": 2,
    "FluxTransformer2DModel": 2,  # its pipeline packs 2 x 2 cells
    "QwenImageTransformer2DModel": 2,
    "SD3Transformer2DModel": 2,
    "WanTransformer3DModel": 2,
}
_PACKS = (
    "FluxTransformer2DModel",
    "Flux2Transformer2DModel",
    "QwenImageTransformer2DModel",
)  # whatever its own patch_size says
# Steps of the noise schedule that diffusers' schedulers are trained with, unless they say another.
MOST_STEPS = 1000


def check(model: Model, choice: ForecastChoice) -> None:
    """Raises BadInput, naming the nearest that the model can take."""
    vae = _of_role(model, "vae")
    denoiser = _of_role(model, "denoiser")
    _check_steps(choice.steps)
    _check_frames(model, vae, choice.frames)
    unit = _pixels_per_token(vae, denoiser)
    for name in ("width", "height"):
        _check_side(model.name, name, getattr(choice, name), unit)
    if vae is not None and denoiser is not None:
        _check_most(model.name, denoiser, choice, unit)


def _of_role(model: Model, role: str) -> Component | None:
    return next((part for part in model.components if part.role == role), None)


def _check_steps(steps: int) -> None:
    if steps > MOST_STEPS:
        raise BadInput(
            f"steps is {steps}; a noise schedule has {MOST_STEPS}, so that is the most there is."
        )


def _pixels_per_token(vae: Component | None, denoiser: Component | None) -> int:
    """Both sides of a picture are multiples of it; 1 where the model does not say."""
    factor = 1 if vae is None else _factor(vae, _SPATIAL, 0)
    if vae is not None and vae.class_name == "AutoencoderKL":
        blocks = vae.config.get("block_out_channels")
        factor = 2 ** (len(blocks) - 1) if isinstance(blocks, list) else factor
    return factor * (_patch(denoiser) if vae is not None and denoiser is not None else 1)


def _factor(vae: Component, keys: tuple[str, ...], index: int) -> int:
    configured = next((vae.config[key] for key in keys if key in vae.config), None)
    default = _FACTORS.get(vae.class_name, (1, 1))[index]
    return configured if isinstance(configured, int) and configured > 0 else default


def _patch(denoiser: Component) -> int:
    default = _PATCHES.get(denoiser.class_name, 1)
    if denoiser.class_name in _PACKS:
        return default
    patch = _last(denoiser.config, "patch_size")
    return patch if patch is not None else default


def _last(config: Mapping[str, Json], key: str) -> int | None:
    """A number, or the last of several: the side, where frames come first."""
    value = config.get(key)
    value = value[-1] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and value > 0 else None


def _check_side(model: str, name: str, value: int, unit: int) -> None:
    if value % unit:
        below = value // unit * unit
        nearest = f"{below} or {below + unit}" if below else str(unit)
        raise BadInput(
            f"{name} is {value}, and {model} draws in multiples of {unit} pixels. Nearest: "
            f"{nearest}."
        )


def _check_most(model: str, denoiser: Component, choice: ForecastChoice, unit: int) -> None:
    """SD3 crops its table of positions to the picture."""
    cells = _last(denoiser.config, "pos_embed_max_size")
    if cells is None or denoiser.class_name != "SD3Transformer2DModel":
        return
    for name in ("width", "height"):
        if getattr(choice, name) > cells * unit:
            raise BadInput(
                f"{name} is {getattr(choice, name)}, and {model} has positions for "
                f"{cells * unit} pixels at most."
            )


def _check_frames(model: Model, vae: Component | None, frames: int) -> None:
    if frames == 1 or vae is None:
        return
    if model.frames == 1:
        raise BadInput(f"frames is {frames}, and {model.name} draws pictures: leave --frames out.")
    factor = _factor(vae, _TEMPORAL, 1)
    if (frames - 1) % factor:
        below = (frames - 1) // factor * factor + 1
        raise BadInput(
            f"frames is {frames}, and {model.name} draws one and multiples of {factor}. Nearest: "
            f"{below} or {below + factor}."
        )
