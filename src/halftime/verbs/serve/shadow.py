"""Does a recipe's certificate hold for what clients ask? A share of the pictures is drawn again by
the pipeline as it was before its fixes, and a test that may look after each of them counts how many
differ visibly (`halftime.base.sequential`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halftime.base.errors import BadInput
from halftime.base.sequential import FALSE_ALARMS, Detector, error_detector
from halftime.fix.apply import read_plan
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

Arguments = Callable[["DiffusionPipeline", list[Job]], dict[str, object]]


@dataclass
class Shadow:
    """The pipeline as it was, and what was seen beside it. Used by the worker's one thread."""

    pipeline: DiffusionPipeline
    certificate: VisibleCertificate
    ruler: Ruler
    share: float
    chance: Callable[[], float] = field(default_factory=lambda: random.Random().random)
    noted: list[tuple[Job, np.ndarray]] = field(default_factory=list)  # to be drawn again
    drawn: int = 0
    different: int = 0
    alarmed: bool = False

    def __post_init__(self) -> None:
        self.detector: Detector = error_detector(self.certificate.alpha)

    def note(self, job: Job, pixels: np.ndarray) -> None:
        """A picture was drawn; so many of those that the certificate speaks of are drawn again."""
        if self._is_certified(job) and self.chance() < self.share:
            self.noted.append((job, pixels.copy()))

    def _is_certified(self, job: Job) -> bool:
        says = self.certificate
        plain = not (job.image or job.mask or job.references or job.frames or job.lora)
        size = (job.width, job.height) == (says.width, says.height)
        return plain and size and job.steps == says.steps and job.guidance in (None, says.guidance)

    def look(
        self, arguments: Arguments, pixels_of: Callable[[object], np.ndarray]
    ) -> Shadowed | None:
        """Draw what was noted again, and count; None where nothing was noted."""
        if not self.noted:
            return None
        jobs, self.noted = self.noted, []
        alarm = ""
        for job, pixels in jobs:
            again = pixels_of(self.pipeline(**arguments(self.pipeline, [job])))[0]
            alarm = self.count(self._differs(job, pixels, again)) or alarm
        return Shadowed(drawn=self.drawn, different=self.different, alarm=alarm)

    def _differs(self, job: Job, pixels: np.ndarray, again: np.ndarray) -> bool:
        pair = (Picture(job.id, array, prompt=job.prompt) for array in (again, pixels))
        return self.ruler.size(*pair) > 1

    def count(self, differs: bool) -> str:
        """One more picture was compared; the alarm where this one raises it."""
        self.drawn += 1
        self.different += differs
        if not self.detector.add(differs) or self.alarmed:
            return ""
        self.alarmed = True
        return (
            f"the recipe's certificate does not hold for what is asked here: {self.different:,} of "
            f"{self.drawn:,} pictures that were drawn twice differ visibly, and the latest of them "
            f"contradict the {self.certificate.alpha:.1%} that was certified (a false alarm once "
            f"in {1 / FALSE_ALARMS:,.0f} pictures). Run halftime tune --visible again with prompts "
            "such as these"
        )


def shadow_of(pipeline: DiffusionPipeline, settings: EngineSettings) -> Shadow | None:
    """Before the recipe is put on: what draws again, where a share of the pictures is to be drawn
    twice. Raises BadInput where the recipe has no certificate to watch."""
    if not settings.shadow or settings.exact:
        return None
    plan = None if settings.recipe is None else read_plan(Path(settings.recipe))
    certificate = plan.certificate if isinstance(plan, Recipe) else None
    if certificate is None:
        raise BadInput(
            f"shadow is {settings.shadow:.3g}, and there is no certificate to watch: name a recipe "
            "with --recipe that `halftime tune --visible` wrote, or leave --shadow out."
        )
    if settings.scheduling == "step":
        raise BadInput(
            f"shadow is {settings.shadow:.3g} and scheduling 'step'; pictures are drawn twice "
            "where scheduling is 'call' only. Leave one of the two out."
        )
    again = twin(pipeline)
    again.set_progress_bar_config(disable=True)
    return Shadow(again, certificate, ruler_of(certificate.visible), settings.shadow)


def exact_part(plan: Plan | Recipe) -> Plan:
    """A plan without its approximate fixes, and so without a certificate."""
    levels: Mapping[str, str] = {name: fix.level for name, fix in FIXES.items()}
    return Plan(fixes=tuple(c for c in plan.fixes if levels.get(c.name) != "approximate"))
