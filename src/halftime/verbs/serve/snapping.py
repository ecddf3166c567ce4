"""What an answer says of a request that was drawn at another size or number of steps."""

from __future__ import annotations

from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.schema import PictureTiming, Snapped


def snapped(requested: Job, timing: PictureTiming) -> Snapped | None:
    """Both, where they differ; None where the picture is as it was asked for."""
    requested_values = (requested.width, requested.height, requested.steps)
    if requested_values == (timing.width, timing.height, timing.steps):
        return None
    return Snapped(
        requested_size=f"{requested.width}x{requested.height}",
        size=f"{timing.width}x{timing.height}",
        requested_steps=requested.steps,
        steps=timing.steps,
    )
