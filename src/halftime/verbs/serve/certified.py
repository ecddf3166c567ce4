"""A certified recipe on a server: refused on another model, and named where calls were not
certified."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from halftime.base import units
from halftime.base.errors import HalftimeWarning, Unlike
from halftime.fix.certificate import certified_call, other_calls, other_model
from halftime.records.recipe import Plan, Recipe
from halftime.verbs.serve.messages import EngineSettings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def certificate_note(
    plan: Plan | Recipe,
    pipeline: DiffusionPipeline,
    settings: EngineSettings,
    guidance: float | None,
) -> str:
    """What the recipe's certificate says here, and does not; '' without one.

    `guidance` is that of a request that names none. Raises Unlike where the certificate is for
    another model; warns where sizes, steps or guidance are offered that it does not speak of.
    """
    certificate = plan.certificate if isinstance(plan, Recipe) else None
    if certificate is None:
        return ""
    reason = other_model(certificate, pipeline)
    if reason:
        raise Unlike(
            f"the recipe's certificate is for another model: {reason}. Certify one for this with: "
            f"halftime tune --visible {certificate.alpha:.3g}"
        )
    note = (
        f"certified at {certified_call(certificate)}: at most {units.share(certificate.alpha)} of "
        f"the pictures differ visibly, with {units.share(certificate.confidence)} confidence"
    )
    uncertified = other_calls(certificate, settings.sizes, settings.steps, guidance)
    if not uncertified:
        return note
    words = f"{note}; not certified: {', '.join(uncertified)}"
    warnings.warn(f"the recipe is {words}.", HalftimeWarning, stacklevel=2)
    return words
