"""What is asked for against what the certificate lists: snapped to the nearest, or refused; never
compiled anew."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from halftime.records.serve import Certificate
from halftime.verbs.serve.messages import Job, Refused


def listed(job: Job, certificate: Certificate, off_list: Literal["snap", "refuse"]) -> Job:
    """The job as it will be drawn. Raises Refused for what the certificate cannot hold."""
    _check_kind(job, certificate)
    size, steps = (
        nearest_size((job.width, job.height), certificate.sizes),
        nearest_steps(job.steps, certificate.steps),
    )
    if off_list == "refuse" and (size, steps) != ((job.width, job.height), job.steps):
        raise Refused(
            f"{job.width}x{job.height} at {job.steps} steps is not warm here. Sizes are: "
            f"{', '.join(f'{width}x{height}' for width, height in certificate.sizes)}; "
            f"steps are: {', '.join(map(str, certificate.steps))}."
        )
    _check_strength(job.strength, steps)
    guidance = job.guidance
    if guidance is not None and "guided" not in certificate.guidance:
        guidance = None
    return msgspec.structs.replace(
        job, width=size[0], height=size[1], steps=steps, guidance=guidance
    )


def _check_kind(job: Job, certificate: Certificate) -> None:
    if job.image is not None and not certificate.img2img:
        raise Refused(
            f"{certificate.pipeline} does not start from a picture here; leave the picture out."
        )
    if job.strength is not None and not (job.image is not None and 0 < job.strength <= 1):
        raise Refused(
            f"strength is {job.strength}; it must be more than 0 and at most 1, and goes with "
            "a picture."
        )


def _check_strength(strength: float | None, steps: int) -> None:
    """diffusers draws int(steps * strength) of the steps, and fails where that is none."""
    if strength is not None and int(steps * strength) == 0:
        raise Refused(
            f"strength is {strength:g}: of {steps} steps that leaves none to draw. It must be "
            f"{1 / steps:.3g} or more; "
            "more steps allow less."
        )


def nearest_size(size: tuple[int, int], sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The listed size whose shape and then whose area is nearest, both as ratios; the first of
    equals."""

    def distance(other: tuple[int, int]) -> tuple[float, float]:
        shape = abs(math.log(size[0] * other[1] / (size[1] * other[0])))
        area = abs(math.log(size[0] * size[1] / (other[0] * other[1])))
        return shape, area

    return min(sizes, key=distance)


def nearest_steps(steps: int, listed_steps: tuple[int, ...]) -> int:
    """The nearest listed number of steps; the larger of two that are equally near."""
    return min(listed_steps, key=lambda other: (abs(other - steps), -other))
