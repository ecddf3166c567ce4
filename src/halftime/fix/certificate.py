"""What ends a recipe's certificate: other weights, another call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.pipeline.fingerprint import weights_of
from halftime.records.certificate import VisibleCertificate

if TYPE_CHECKING:
    from collections.abc import Collection

    from diffusers import DiffusionPipeline


def other_model(certificate: VisibleCertificate, pipeline: DiffusionPipeline) -> str:
    """'unet has other weights than those that were certified', or ''."""
    here = weights_of(pipeline)
    names = [name for name, weights in certificate.weights.items() if here.get(name) != weights]
    names += sorted(here.keys() - certificate.weights.keys())
    scheduler = type(getattr(pipeline, "scheduler", None)).__name__
    if names:
        return f"{', '.join(names)}: other weights than those that were certified"
    if scheduler != certificate.scheduler:
        return f"its scheduler is {scheduler}; certified was {certificate.scheduler}"
    return ""


def other_calls(
    certificate: VisibleCertificate,
    sizes: Collection[tuple[int, int]],
    steps: Collection[int],
    guidance: float | None,
) -> list[str]:
    """In words what a server offers that was not certified."""
    certified = (certificate.width, certificate.height)
    words = [f"{w}x{h}" for w, h in sizes if (w, h) != certified]
    words += [f"{count} steps" for count in steps if count != certificate.steps]
    if certificate.guidance is not None and guidance not in (None, certificate.guidance):
        words.append(f"guidance {guidance:g}")
    return words


def certified_call(certificate: VisibleCertificate) -> str:
    """'128x128, 30 steps, guidance 2.5'."""
    words = f"{certificate.width}x{certificate.height}, {certificate.steps} steps"
    if certificate.guidance is None:
        return words
    return f"{words}, guidance {certificate.guidance:g}"
