"""What clients write in another way than this API, and mean the same by."""

from __future__ import annotations

from halftime.http.errors import ApiError
from halftime.verbs.serve.schema import ANY_SEED, ImageRequest

# diffusers' own words, which several clients and servers send
STEPS = ("steps", "num_inference_steps")
GUIDANCE = ("guidance", "guidance_scale")


def steps_of(body: ImageRequest) -> int | None:
    """The number of steps, by either name. Raises ApiError where they differ."""
    _agree(STEPS, body.steps, body.num_inference_steps)
    return body.num_inference_steps if body.steps is None else body.steps


def guidance_of(body: ImageRequest) -> float | None:
    """The guidance scale, by either name. Raises ApiError where they differ."""
    _agree(GUIDANCE, body.guidance, body.guidance_scale)
    return body.guidance_scale if body.guidance is None else body.guidance


def seed_of(body: ImageRequest) -> int | None:
    """The seed; -1 asks for any, as in Stable Diffusion's web interfaces."""
    return None if body.seed == ANY_SEED else body.seed


def _agree(names: tuple[str, str], first: float | None, second: float | None) -> None:
    if first is None or second is None or first == second:
        return
    raise ApiError(
        400,
        f"{names[0]} is {first:g} and {names[1]} is {second:g}: these are two names of one "
        "thing. Send one of them.",
        code="invalid_value",
        param=names[1],
    )
