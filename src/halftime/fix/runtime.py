"""What the foreign runtimes share: a component's method, converted once for each set of shapes."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from halftime.base.extras import install
from halftime.fix.base import Settings, first_reason, needs_denoiser, needs_vae
from halftime.fix.deep_cache import converted
from halftime.fix.undo import like
from halftime.pipeline.change import patched
from halftime.pipeline.components import components, denoisers, vae_of
from halftime.records.priors import components_of
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Runner = Callable[[Sequence[Tensor]], list[Tensor]]
Convert = Callable[["Flat", tuple[Tensor, ...]], Runner]
PARTS = ("denoiser", "vae", "text_encoder")


class Flat(nn.Module):
    """A method as a module from tensors to tensors; everything else of the call is a constant."""

    def __init__(
        self, owner: nn.Module, function: Callable[..., object], leaves: list[object], spec: object
    ) -> None:
        super().__init__()
        self.owner = owner  # so that the exporters see the weights
        self.function, self.leaves, self.spec = function, leaves, spec
        self.result_spec: object = None
        self.result_dtypes: list[torch.dtype] = []

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(tensors)
        leaves = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytorch.tree_unflatten(leaves, self.spec)
        results, self.result_spec = pytorch.tree_flatten(self.function(*args, **kwargs))
        self.result_dtypes = [result.dtype for result in results]
        return tuple(results)


@dataclass
class Converted:
    """A method that runs elsewhere: converted for each set of static shapes, on its first call."""

    owner: nn.Module
    function: Callable[..., object]
    convert: Convert
    runners: dict[object, tuple[Flat, Runner]] = field(default_factory=dict)

    def __call__(self, *args: object, **kwargs: object) -> object:
        tensors: list[Tensor] = []
        key = signature((args, kwargs), tensors)
        if key not in self.runners:
            leaves, spec = pytorch.tree_flatten((args, kwargs))
            flat = Flat(self.owner, self.function, leaves, spec).eval()
            with torch.no_grad():
                self.runners[key] = flat, self.convert(flat, tuple(tensors))
        flat, run = self.runners[key]
        results = [r.to(dtype) for r, dtype in zip(run(tensors), flat.result_dtypes, strict=True)]
        return pytorch.tree_unflatten(results, flat.result_spec)


def signature(value: object, tensors: list[Tensor]) -> object:
    """What a conversion depends on: shapes and dtypes of tensors, everything else by value.
    Collects the tensors, in pytree's order; pytree itself takes ten times as long, and this is done
    on every step.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple([(key, signature(item, tensors)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple([signature(item, tensors) for item in value])
    return repr(value)


@contextmanager
def elsewhere(pipeline: DiffusionPipeline, settings: Settings, convert: Convert) -> Iterator[None]:
    """The chosen components run through `convert`'s runners."""
    with ExitStack() as stack:
        for owner, holder, entry in _entries(pipeline, settings):
            function = getattr(holder, entry)
            build = functools.partial(Converted, owner, convert=convert)
            run = converted(function, build)
            stack.enter_context(patched(holder, entry, like(function, run)))
        yield


def _entries(
    pipeline: DiffusionPipeline, settings: Settings
) -> list[tuple[nn.Module, nn.Module, str]]:
    chosen = components_of(settings)
    entries = (
        [(model, model, "forward") for model in denoisers(pipeline)] if "denoiser" in chosen else []
    )
    if "text_encoder" in chosen:
        entries += [
            (encoder, encoder, "forward")
            for encoder in components(pipeline, "text_encoder").values()
        ]
    vae = vae_of(pipeline)
    if "vae" in chosen and vae is not None:
        decoder = getattr(vae, "decoder", None)
        entries.append(
            (vae, decoder, "forward") if isinstance(decoder, nn.Module) else (vae, vae, "decode")
        )
    return entries


def not_installed(package: str, extra: str) -> str | None:
    """A reason where the package is missing."""
    return (
        None
        if importlib.util.find_spec(package)
        else f"{package} is not installed: {install(extra)}"
    )


def reason_against(
    pipeline: DiffusionPipeline, device: torch.device, settings: Settings, package: str, extra: str
) -> str | None:
    """Why this runtime cannot take the chosen components here, or None."""
    chosen = settings["components"]
    parts = set(components_of(settings))
    wrong = not parts or not parts <= set(PARTS)
    has_encoder = bool(components(pipeline, "text_encoder"))
    return first_reason(
        not_installed(package, extra),
        f"components is {chosen!r}; name some of: {', '.join(PARTS)}" if wrong else None,
        None
        if device.type == "cpu"
        else f"it runs on the CPU, and this pipeline is on {device.type}",
        needs_denoiser(pipeline, device, settings) if "denoiser" in parts else None,
        needs_vae(pipeline, device, settings) if "vae" in parts else None,
        "the pipeline has no text encoder" if "text_encoder" in parts and not has_encoder else None,
    )
