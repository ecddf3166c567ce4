"""Build a component on the meta device, and feed it inputs of the right shapes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from halftime.base.errors import BadInput
from halftime.records import Json
from halftime.upstream import hugging_face
from halftime.verbs.forecast.geometry import Geometry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Inputs = Callable[["nn.Module", Geometry, "torch.dtype"], object]


def build(
    library: str, class_name: str, config: Mapping[str, Json], dtype: torch.dtype
) -> nn.Module:
    """The module on the meta device: shapes only, no weights.

    Raises BadInput for a class that cannot be built.
    """
    import torch

    try:
        kind = getattr(importlib.import_module(library), class_name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"{library} has no class {class_name!r}. Update {library}, or name another model."
        ) from error
    with torch.device("meta"):
        if library == "diffusers":
            module = kind.from_config(dict(config)) if config else kind()
        else:
            module = kind(_transformers_config(kind, config))
    return _cast(module.eval(), dtype)


def _transformers_config(kind: type, config: Mapping[str, Json]) -> object:
    settings = kind.config_class.from_dict(dict(config))  # type: ignore[attr-defined]
    # Gemma 2 caps its attention scores, which fused attention cannot.
    attention = "eager" if kind.__name__.startswith("Gemma2") else "sdpa"
    hugging_face.set_attention_implementation(settings, attention)
    return settings


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """As `module.to(dtype)`, without the warning that diffusers gives where layers stay in fp32."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return module


def forward_of(
    class_name: str, role: str, geometry: Geometry, dtype: torch.dtype
) -> Callable[[nn.Module], object]:
    """A function that runs one forward of the module.

    Raises BadInput for a class without an entry in the table.
    """
    table = {"vae": DECODERS, "vae_encoder": ENCODERS}.get(role, FORWARDS)
    if class_name not in table:
        raise BadInput(
            f"halftime forecast does not know the inputs of {class_name}. It knows: "
            f"{', '.join(table)}."
        )
    return lambda module: table[class_name](module, geometry, dtype)


def knows(class_name: str, role: str) -> bool:
    """Whether the forecast knows the inputs of that class."""
    return class_name in {"vae": DECODERS, "vae_encoder": ENCODERS}.get(role, FORWARDS)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    import torch

    return torch.empty(*shape, dtype=dtype, device="meta")


def _indices(*shape: int) -> Tensor:
    import torch

    return torch.empty(*shape, dtype=torch.int64, device="meta")


class _Numbers:
    """A module's configuration, as the numbers that shapes are made of; of a list, its first."""

    def __init__(self, module: nn.Module) -> None:
        self._config: Mapping[str, Json] = module.config  # type: ignore[assignment]

    def __getattr__(self, name: str) -> int:
        value = self._config[name]
        first = value[0] if isinstance(value, list | tuple) else value
        return int(first) if isinstance(first, int | float) else 0

    def text(self, name: str) -> str:
        return str(self._config[name])

    def length(self, name: str) -> int:
        value = self._config[name]
        return len(value) if isinstance(value, list | tuple) else 1


def _method(module: nn.Module, name: str) -> Callable[..., object]:
    method: Callable[..., object] = getattr(module, name)
    return method


def _unet(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    extra: dict[str, object] = {}
    if config.text("addition_embed_type") == "text_time":
        ids = 6 if config.cross_attention_dim != 1280 else 5
        width = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
        extra["added_cond_kwargs"] = {
            "text_embeds": _empty(at.batch, width, dtype=dtype),
            "time_ids": _empty(at.batch, ids, dtype=dtype),
        }
    width = config.cross_attention_dim
    return module(
        _empty(at.batch, config.in_channels, at.height // 8, at.width // 8, dtype=dtype),
        _indices(at.batch),
        _empty(at.batch, at.tokens or 77, width, dtype=dtype),
        return_dict=False,
        **extra,
    )


def _controlnet(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    return module(
        _empty(at.batch, config.in_channels, at.height // 8, at.width // 8, dtype=dtype),
        _indices(at.batch),
        _empty(at.batch, at.tokens or 77, config.cross_attention_dim, dtype=dtype),
        _empty(at.batch, 3, at.height, at.width, dtype=dtype),
        return_dict=False,
    )


def _flux(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    width = _Numbers(module).pooled_projection_dim
    return _of_flux(
        module, at, dtype, axes=3, pooled_projections=_empty(at.batch, width, dtype=dtype)
    )


def _flux2(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    return _of_flux(module, at, dtype, axes=4)


def _of_flux(
    module: nn.Module, at: Geometry, dtype: torch.dtype, axes: int, **more: object
) -> object:
    """A call with texts and cells, each placed along so many axes."""
    import torch

    config, tokens = _Numbers(module), at.tokens or 512
    cells = (at.height // 16) * (at.width // 16)
    return module(
        hidden_states=_empty(at.batch, cells, config.in_channels, dtype=dtype),
        encoder_hidden_states=_empty(at.batch, tokens, config.joint_attention_dim, dtype=dtype),
        timestep=_empty(at.batch, dtype=dtype),
        img_ids=_empty(cells, axes, dtype=dtype),
        txt_ids=_empty(tokens, axes, dtype=dtype),
        guidance=_empty(at.batch, dtype=torch.float32) if config.guidance_embeds else None,
        return_dict=False,
        **more,
    )


def _qwen_image(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config, tokens = _Numbers(module), at.tokens or 256
    rows, columns = at.height // 16, at.width // 16
    return module(
        hidden_states=_empty(at.batch, rows * columns, config.in_channels, dtype=dtype),
        encoder_hidden_states=_empty(at.batch, tokens, config.joint_attention_dim, dtype=dtype),
        encoder_hidden_states_mask=None,
        timestep=_empty(at.batch, dtype=dtype),
        img_shapes=[[(1, rows, columns)]] * at.batch,
        return_dict=False,
    )


def _sd3(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    return module(
        hidden_states=_empty(
            at.batch, config.in_channels, at.height // 8, at.width // 8, dtype=dtype
        ),
        encoder_hidden_states=_empty(
            at.batch, at.tokens or 333, config.joint_attention_dim, dtype=dtype
        ),
        pooled_projections=_empty(at.batch, config.pooled_projection_dim, dtype=dtype),
        timestep=_indices(at.batch),
        return_dict=False,
    )


def _pixart(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    sizes = config.use_additional_conditions
    conditions = {
        "resolution": _empty(at.batch, 2, dtype=dtype) if sizes else None,
        "aspect_ratio": _empty(at.batch, 1, dtype=dtype) if sizes else None,
    }
    return module(
        _empty(at.batch, config.in_channels, at.height // 8, at.width // 8, dtype=dtype),
        encoder_hidden_states=_empty(
            at.batch, at.tokens or 300, config.caption_channels, dtype=dtype
        ),
        timestep=_indices(at.batch),
        added_cond_kwargs=conditions,
        return_dict=False,
    )


def _sana(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    return module(
        _empty(at.batch, config.in_channels, at.height // 32, at.width // 32, dtype=dtype),
        encoder_hidden_states=_empty(
            at.batch, at.tokens or 300, config.caption_channels, dtype=dtype
        ),
        timestep=_indices(at.batch),
        return_dict=False,
    )


def _wan(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    frames = (at.frames - 1) // 4 + 1
    return module(
        _empty(at.batch, config.in_channels, frames, at.height // 8, at.width // 8, dtype=dtype),
        timestep=_indices(at.batch),
        encoder_hidden_states=_empty(at.batch, at.tokens or 512, config.text_dim, dtype=dtype),
        return_dict=False,
    )


def _cogvideox(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    frames = (at.frames - 1) // 4 + 1
    rotary = None
    if config.use_rotary_positional_embeddings:
        length = frames * (at.height // 16) * (at.width // 16)
        rotary = (_empty(length, config.attention_head_dim, dtype=dtype),) * 2
    return module(
        _empty(at.batch, frames, config.in_channels, at.height // 8, at.width // 8, dtype=dtype),
        encoder_hidden_states=_empty(
            at.batch, at.tokens or 226, config.text_embed_dim, dtype=dtype
        ),
        timestep=_indices(at.batch),
        image_rotary_emb=rotary,
        return_dict=False,
    )


def _ltx(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    config = _Numbers(module)
    frames, rows, columns = (at.frames - 1) // 8 + 1, at.height // 32, at.width // 32
    tokens = at.tokens or 128
    return module(
        _empty(at.batch, frames * rows * columns, config.in_channels, dtype=dtype),
        encoder_hidden_states=_empty(at.batch, tokens, config.caption_channels, dtype=dtype),
        timestep=_indices(at.batch),
        encoder_attention_mask=_indices(at.batch, tokens),
        num_frames=frames,
        height=rows,
        width=columns,
        return_dict=False,
    )


def _text(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    return module(_indices(at.batch, at.tokens or 77), output_hidden_states=True)


def _decode(fixed: int | None) -> Inputs:
    def run(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
        factor = fixed or 2 ** (_Numbers(module).length("block_out_channels") - 1)
        latent = _empty(
            at.batch,
            _Numbers(module).latent_channels,
            at.height // factor,
            at.width // factor,
            dtype=dtype,
        )
        return _method(module, "decode")(latent, return_dict=False)

    return run


def _decode_video(spatial: int, temporal: int, channels: str) -> Inputs:
    def run(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
        frames = (at.frames - 1) // temporal + 1
        shape = (
            at.batch,
            getattr(_Numbers(module), channels),
            frames,
            at.height // spatial,
            at.width // spatial,
        )
        return _method(module, "decode")(_empty(*shape, dtype=dtype), return_dict=False)

    return run


def _encode(module: nn.Module, at: Geometry, dtype: torch.dtype) -> object:
    return _method(module, "encode")(
        _empty(at.batch, 3, at.height, at.width, dtype=dtype), return_dict=False
    )


FORWARDS: dict[str, Inputs] = {
    "UNet2DConditionModel": _unet,
    "ControlNetModel": _controlnet,
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "QwenImageTransformer2DModel": _qwen_image,
    "SD3Transformer2DModel": _sd3,
    "PixArtTransformer2DModel": _pixart,
    "SanaTransformer2DModel": _sana,
    "WanTransformer3DModel": _wan,
    "CogVideoXTransformer3DModel": _cogvideox,
    "LTXVideoTransformer3DModel": _ltx,
    "CLIPTextModel": _text,
    "CLIPTextModelWithProjection": _text,
    "T5EncoderModel": _text,
    "UMT5EncoderModel": _text,
    "Gemma2Model": _text,
    "MistralModel": _text,
    "Qwen2Model": _text,
    "Qwen3Model": _text,
}
DECODERS: dict[str, Inputs] = {
    "AutoencoderKL": _decode(None),
    "AutoencoderKLFlux2": _decode(8),
    "AutoencoderKLQwenImage": _decode_video(8, 4, "z_dim"),
    "AutoencoderTiny": _decode(8),
    "AutoencoderDC": _decode(32),
    "AutoencoderKLWan": _decode_video(8, 4, "z_dim"),
    "AutoencoderKLCogVideoX": _decode_video(8, 4, "latent_channels"),
    "AutoencoderKLLTXVideo": _decode_video(32, 8, "latent_channels"),
}
ENCODERS: dict[str, Inputs] = {
    "AutoencoderKL": _encode,
    "AutoencoderTiny": _encode,
    "AutoencoderDC": _encode,
}
