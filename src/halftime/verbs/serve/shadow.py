"""Does a recipe's certificate hold for what clients ask? A share of the pictures is drawn again by
the pipeline as it was before its fixes, and compared by the certificate's own rule. What that says
of the certificate is counted in `certificate_watch`, for all workers together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halftime.base.errors import BadInput
from halftime.base.source import in_a_sentence
from halftime.fix.apply import read_plan, starts_on_host
from halftime.fix.certificate import certified_call
from halftime.fix.table import FIXES
from halftime.pipeline.twin import twin
from halftime.records.certificate import VisibleCertificate
from halftime.records.recipe import Plan, Recipe
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.wire import Shadowed
from halftime.verbs.verify.pictures import Picture
from halftime.verbs.verify.ruler import Ruler, ruler_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class Shadow:
    """The pipeline as it was, and what it is to draw again. Used by the worker's one thread.

    `guidance` is that of a job that names none, `certified_guidance` the certificate's.
    """

    pipeline: DiffusionPipeline
    certificate: VisibleCertificate
    ruler: Ruler
    share: float
    guidance: float | None = None
    certified_guidance: float | None = None
    chance: Callable[[], float] = field(default_factory=lambda: random.Random().random)
    noted: list[tuple[Job, np.ndarray]] = field(default_factory=list)  # to be drawn again

    def note(self, job: Job, pixels: np.ndarray) -> None:
        """A picture was drawn; so many of those that the certificate speaks of are drawn again."""
        if self._is_certified(job) and self.chance() < self.share:
            self.noted.append((job, pixels.copy()))

    def _is_certified(self, job: Job) -> bool:
        says = self.certificate
        plain = not (job.image or job.mask or job.references or job.frames or job.lora)
        size = (job.width, job.height) == (says.width, says.height)
        guidance = self.guidance if job.guidance is None else job.guidance
        same = guidance == self.certified_guidance
        return plain and size and same and job.steps == says.steps

    def look(self, again: Callable[[Job], np.ndarray]) -> Shadowed | None:
        """Draw what was noted again, and compare; None where nothing was noted. What goes wrong
        there is nobody's answer."""
        if not self.noted:
            return None
        jobs, self.noted = self.noted, []
        differ, trouble = [], ""
        for job, pixels in jobs:
            try:
                differ.append(self._differs(job, pixels, again(job)))
            except Exception as error:  # whatever the pipeline's code runs into
                trouble = in_a_sentence(error)
        return Shadowed(alpha=self.certificate.alpha, differ=tuple(differ), trouble=trouble)

    def _differs(self, job: Job, pixels: np.ndarray, again: np.ndarray) -> bool:
        pair = (Picture(job.id, array, prompt=job.prompt) for array in (again, pixels))
        return self.ruler.size(*pair) > 1


def shadow_of(
    pipeline: DiffusionPipeline,
    settings: EngineSettings,
    guidance: float | None,
    own_guidance: float | None,
) -> Shadow | None:
    """Before the recipe is put on: what draws again, where a share of the pictures is to be drawn
    twice. Raises BadInput where there is nothing to watch, or nothing to draw it with.

    `guidance` is that of a request that names none, `own_guidance` what it would be if the server
    named none either.
    """
    if not settings.shadow or settings.exact:
        return None
    plan = None if settings.recipe is None else read_plan(Path(settings.recipe))
    certificate = plan.certificate if isinstance(plan, Recipe) else None
    if certificate is None:
        raise BadInput(
            f"shadow is {settings.shadow:.3g}, and there is no certificate to watch: name a recipe "
            "with --recipe that `halftime tune --visible` wrote, or leave --shadow out."
        )
    reason = _cannot_watch(certificate, settings)
    if reason:
        raise BadInput(f"shadow is {settings.shadow:.3g} and {reason}, or leave --shadow out.")
    again = twin(pipeline)
    again.set_progress_bar_config(disable=True)
    certified = own_guidance if certificate.guidance is None else certificate.guidance
    ruler = ruler_of(certificate.visible)
    return Shadow(again, certificate, ruler, settings.shadow, guidance, certified)


def _cannot_watch(certificate: VisibleCertificate, settings: EngineSettings) -> str:
    """Why no picture could be drawn twice, and what to do about it; or ''."""
    if settings.scheduling == "step":
        return "scheduling 'step'; pictures are drawn twice with --scheduling call only: name that"
    if starts_on_host(settings.recipe):
        return (
            "the recipe has offload; without it, which is how pictures are drawn again, the "
            "pipeline does not fit: take a recipe without offload"
        )
    size = (certificate.width, certificate.height)
    offered = not settings.sizes or size in settings.sizes
    if offered and certificate.steps in settings.steps:
        return ""
    return (
        f"nothing that the server offers is certified: that is {certified_call(certificate)}. "
        f"Offer it, with --sizes {size[0]}x{size[1]} --steps {certificate.steps}"
    )


def exact_part(plan: Plan | Recipe) -> Plan:
    """A plan without its approximate fixes, and so without a certificate."""
    levels: Mapping[str, str] = {name: fix.level for name, fix in FIXES.items()}
    return Plan(fixes=tuple(c for c in plan.fixes if levels.get(c.name) != "approximate"))
