"""What a pipeline holds: its components by the part that they play, and pipelines within it."""

from __future__ import annotations

from collections.abc import Iterator

from diffusers import DiffusionPipeline
from torch import nn

from halftime.records.stages import place_of

# The component names under which diffusers' pipelines keep what they call in every step.
DENOISERS = ("unet", "transformer", "transformer_2", "unet_2")


def pipelines_of(pipeline: DiffusionPipeline) -> list[DiffusionPipeline]:
    """The pipeline, and those that it holds as attributes, as a combined pipeline does."""
    return [
        pipeline,
        *(value for value in vars(pipeline).values() if isinstance(value, DiffusionPipeline)),
    ]


def with_subclasses(kind: type) -> Iterator[type]:
    """The class and every class below it that exists by now."""
    yield kind
    subclasses: list[type] = kind.__subclasses__()
    for subclass in subclasses:
        yield from with_subclasses(subclass)


def components_of(pipeline: DiffusionPipeline) -> dict[str, object]:
    """Name -> component of the pipeline and of those within it, each object once, with what
    pipelines keep beside their components: processors, watermarks, modules that a user's subclass
    holds without registering them.

    Where two pipelines name different objects alike, the later ones are numbered from 2.
    """
    unique: dict[int, tuple[str, object]] = {}
    for part in pipelines_of(pipeline):
        for name, component in {**part.components, **_beside_components(part)}.items():
            if component is not None and hasattr(component, "__dict__"):
                unique.setdefault(id(component), (name, component))
    named: dict[str, object] = {}
    for name, component in unique.values():
        free, number = name, 2
        while free in named:
            free, number = f"{name}_{number}", number + 1
        named[free] = component
    return named


def _beside_components(pipeline: DiffusionPipeline) -> dict[str, object]:
    """Attributes that do a component's work and are not registered as one. A part of a component
    is no other component: it has its time within that one."""
    registered = pipeline.components
    beside = {
        name.lstrip("_"): value
        for name, value in vars(pipeline).items()
        if value is not registered.get(name)
        and (isinstance(value, nn.Module) or name.endswith("processor") or place_of(name))
    }
    if not any(isinstance(value, nn.Module) for value in beside.values()):
        return beside  # as of nearly every pipeline, whose models are not walked for it
    parts = {
        id(module)
        for component in registered.values()
        if isinstance(component, nn.Module)
        for module in component.modules()
    }
    return {name: value for name, value in beside.items() if id(value) not in parts}


def modules_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The neural ones of `components_of`."""
    return {
        name: component
        for name, component in components_of(pipeline).items()
        if isinstance(component, nn.Module)
    }


def components(pipeline: DiffusionPipeline, part: str) -> dict[str, nn.Module]:
    """Name -> module of one part ('denoiser', 'vae', 'text_encoder') of the pipeline itself."""
    return {
        name: module
        for name, module in pipeline.components.items()
        if (home := place_of(name)) is not None
        and home.part == part
        and isinstance(module, nn.Module)
    }


def denoisers(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """The UNet or transformer; both in a pipeline with two."""
    return [
        module for name, module in components(pipeline, "denoiser").items() if name in DENOISERS
    ]


def vae_of(pipeline: DiffusionPipeline) -> nn.Module | None:
    """The VAE whose `decode` makes the picture."""
    vae = components(pipeline, "vae").get("vae")
    return vae if vae is not None and hasattr(vae, "decode") else None
