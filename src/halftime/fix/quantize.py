"""denoiser-quantize and text-quantize: linear layers in 8 or 4 bits (torchao). It saves memory, and
time only where kernels and compilation take it up: measure.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from halftime.base.errors import first_line
from halftime.base.extras import install, optional
from halftime.fix.base import FixCode, Settings, first_reason, number, one_of, text
from halftime.fix.undo import restored
from halftime.pipeline.components import components, denoisers
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Scheme(NamedTuple):
    """A way of torchao's: how it is made, what it needs, and which layers it takes."""

    config: str  # a class of torchao.quantization, or of a module of it: 'module:class'
    by_row: bool = False  # one scale for each row, where torchao's default is one for all
    capability: tuple[int, int] | None = None  # of a CUDA device; None: it works anywhere
    multiple: int = 1  # of a layer's inputs and outputs


SCHEMES: Mapping[str, Scheme] = {
    "int8-weight-only": Scheme("Int8WeightOnlyConfig"),
    "int8-dynamic": Scheme("Int8DynamicActivationInt8WeightConfig"),
    "fp8-weight-only": Scheme("Float8WeightOnlyConfig", multiple=16),
    "fp8-dynamic": Scheme(
        "Float8DynamicActivationFloat8WeightConfig", by_row=True, capability=(8, 9), multiple=16
    ),
    "int4-weight-only": Scheme("Int4WeightOnlyConfig", capability=(8, 0), multiple=128),
    "nvfp4-weight-only": Scheme(
        "torchao.prototype.mx_formats:NVFP4WeightOnlyConfig", capability=(10, 0), multiple=16
    ),
    "nvfp4-dynamic": Scheme(
        "torchao.prototype.mx_formats:NVFP4DynamicActivationNVFP4WeightConfig",
        capability=(10, 0),
        multiple=16,
    ),
}


class Unquantised(NamedTuple):
    """Layers that keep their precision: a pattern that is searched in their names, and who says
    so."""

    pattern: str
    source: str


_MODELOPT = "NVIDIA Model Optimizer, examples/diffusers, filter_func"
_CASTING = "diffusers, DEFAULT_SKIP_MODULES_PATTERN of its layerwise casting"
LEFT_OUT: tuple[Unquantised, ...] = (
    Unquantised("time_emb_proj|time_embedding|time_text_embed|add_embedding|pos_embed", _MODELOPT),
    Unquantised("context_embedder|x_embedder|norm_out|conv_in|conv_out|conv_shortcut", _MODELOPT),
    Unquantised("pos_embed|patch_embed|norm|^proj_in$|^proj_out$", _CASTING),
    # Of text encoders: what looks words up, and what would turn states into words again.
    Unquantised(
        "embed|shared|lm_head", "transformers, modules that get_keys_to_not_convert leaves out"
    ),
)


def left_out(model: nn.Module) -> list[str]:
    """Patterns of names of the layers that keep their precision in this model: of the table, and of
    what the model's own class lists."""
    own = (*hugging_face.not_cast_layerwise(model), *hugging_face.kept_in_fp32(model))
    return [*(row.pattern for row in LEFT_OUT), *own]


def quantised_layers(model: nn.Module, scheme: Scheme, least: int) -> list[str]:
    """Names of the linear layers that become smaller."""
    patterns = left_out(model)
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and min(module.in_features, module.out_features) >= least
        and not module.in_features % scheme.multiple
        and not module.out_features % scheme.multiple
        and not any(re.search(pattern, name) for pattern in patterns)
    ]


def config_of(scheme: Scheme) -> object:
    """torchao's configuration. Raises whatever torchao raises where it cannot make one."""
    quantization = optional("torchao.quantization", "torchao", "Quantising")
    home, _, name = scheme.config.rpartition(":")
    module: ModuleType = importlib.import_module(home) if home else quantization
    make: Callable[..., object] = getattr(module, name)
    return make(granularity=quantization.PerRow()) if scheme.by_row else make()


Parts = Callable[["DiffusionPipeline"], list[nn.Module]]


def _text_encoders(pipeline: DiffusionPipeline) -> list[nn.Module]:
    return list(components(pipeline, "text_encoder").values())


def _applies_to(parts: Parts, missing: str) -> Callable[..., str | None]:
    def applies(
        pipeline: DiffusionPipeline, device: torch.device, settings: Settings
    ) -> str | None:
        models = parts(pipeline)
        reason = first_reason(
            None
            if importlib.util.find_spec("torchao")
            else f"torchao is not installed: {install('torchao')}",
            None if models else missing,
            one_of(settings, "kind", tuple(SCHEMES)),
        )
        if reason:
            return reason
        scheme, least = SCHEMES[text(settings, "kind")], int(number(settings, "least_features"))
        wide = any(quantised_layers(model, scheme, least) for model in models)
        narrow = (
            f"it has no linear layer with {least} features or more that may lose precision; lower "
            "least_features"
        )
        return (
            _lacking(text(settings, "kind"), scheme, device)
            or (None if wide else narrow)
            or _impossible(scheme, device, next(models[0].parameters()).dtype)
        )

    return applies


def _lacking(kind: str, scheme: Scheme, device: torch.device) -> str | None:
    """What the device lacks for a scheme."""
    if scheme.capability is None:
        return None
    needed = ".".join(map(str, scheme.capability))
    if device.type != "cuda":
        return f"{kind} needs a CUDA device of compute capability {needed}, and it is on {device}"
    here = torch.cuda.get_device_capability(device)
    if here < scheme.capability:
        return f"{kind} needs compute capability {needed}; this GPU has {here[0]}.{here[1]}"
    return None


def _impossible(scheme: Scheme, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torchao cannot quantise here, or None: one small layer is quantised, and called."""
    size = max(128, scheme.multiple)
    layer = nn.Linear(size, size, device=device, dtype=dtype)
    try:
        _quantise(layer, scheme, lambda module, path: True)
        with torch.no_grad():
            layer(torch.ones(16, size, device=device, dtype=dtype))
    except Exception as error:  # what a version, a kernel or a device lacks is raised in any way
        return f"torchao cannot do that here ({type(error).__name__}: {first_line(error)})"
    return None


def _quantise(model: nn.Module, scheme: Scheme, takes: Callable[[nn.Module, str], bool]) -> None:
    quantization = optional("torchao.quantization", "torchao", "Quantising")
    with pytorch.inductor_config_restored():
        quantization.quantize_(model, config_of(scheme), filter_fn=takes)


def _is_one_of(layers: set[str], module: nn.Module, name: str) -> bool:
    return name in layers


def _on(parts: Parts) -> Callable[..., object]:
    @contextmanager
    def apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
        scheme, least = SCHEMES[text(settings, "kind")], int(number(settings, "least_features"))
        with ExitStack() as stack:
            for model in parts(pipeline):
                layers = {*quantised_layers(model, scheme, least)}
                stack.enter_context(restored(model))
                # torchao puts a new weight in the place of the old, which it only reads.
                _quantise(model, scheme, functools.partial(_is_one_of, layers))
            yield

    return apply


DENOISER_QUANTIZE = FixCode(
    _applies_to(denoisers, "the pipeline has no unet or transformer"),
    _on(denoisers),  # type: ignore[arg-type]
)
TEXT_QUANTIZE = FixCode(
    _applies_to(_text_encoders, "the pipeline has no text encoder"),
    _on(_text_encoders),  # type: ignore[arg-type]
)
