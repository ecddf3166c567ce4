"""One call of a pipeline as work: which component runs how often, on what shapes and dtype."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from halftime.base.errors import BadInput
from halftime.records import Record
from halftime.verbs.forecast import limits
from halftime.verbs.forecast.cache import Traced
from halftime.verbs.forecast.geometry import Geometry
from halftime.verbs.forecast.models import Component, Model
from halftime.verbs.forecast.predict import ComponentRun, StageWork
from halftime.verbs.forecast.quantised import sixteen
from halftime.verbs.forecast.roofline import DTYPES

# Largest side that a tile of a tiled decode has, in pixels, and how much neighbouring tiles overlap
# (diffusers' own).
TILE_PIXELS, TILE_OVERLAP = 512, 0.25

# What published timings of whole calls hold besides these stages; fitted, since nobody reports it
# separately.
OUTSIDE = "outside the stages"


class ForecastSettings(Record, frozen=True, kw_only=True):
    """What the caller may choose; None is the model's own value."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    steps: int | None = None
    batch: int = 1  # pictures of one call
    dtype: str | None = None
    vae_dtype: str | None = None
    guidance: bool | None = None
    compiled: bool = False  # denoiser and VAE
    channels_last: bool = False
    attention: str = "sdpa"
    tiled: bool = False  # the VAE decodes tile by tile


class ForecastChoice(Record, frozen=True, kw_only=True):
    """ForecastSettings with the model's own values filled in."""

    width: int
    height: int
    frames: int
    steps: int
    batch: int
    dtype: str
    vae_dtype: str
    guidance: bool
    compiled: bool
    channels_last: bool
    attention: str
    tiled: bool


class Scenario(Record, frozen=True, kw_only=True):
    """A call, whole."""

    model: Model
    choice: ForecastChoice
    works: tuple[StageWork, ...]


def scenario_of(model: Model, settings: ForecastSettings) -> Scenario:
    """The call of `model` under `settings`. Raises BadInput for what cannot be run."""
    full = _filled(model, settings)
    limits.check(model, full)
    stages = {
        "encode_prompt": tuple(
            _text(c, full) for c in model.components if c.role == "text_encoder"
        ),
        "denoise": tuple(
            _denoise(model, c, full) for c in model.components if c.role == "denoiser"
        ),
        "vae_decode": tuple(_decode(c, full) for c in model.components if c.role == "vae"),
    }
    works = [
        StageWork(stage=stage, runs=_first_steps(runs)) for stage, runs in stages.items() if runs
    ]
    if stages["vae_decode"]:
        works += [
            StageWork(stage="postprocess", pixels=_pixels(full)),
            StageWork(stage=OUTSIDE, calls=1),
        ]
    return Scenario(model=model, choice=full, works=tuple(works))


def _filled(model: Model, settings: ForecastSettings) -> ForecastChoice:
    dtype = _dtype(settings.dtype or model.dtype)
    changed = settings.dtype is not None and _dtype(settings.dtype) != model.dtype
    vae = (
        settings.vae_dtype
        or (None if changed and dtype in ("bf16", "fp32", "tf32") else model.vae_dtype)
        or dtype
    )
    width = _or(settings.width, model.width)
    choice = ForecastChoice(
        width=width,
        height=_or(settings.height, model.height if settings.width is None else width),
        frames=_or(settings.frames, model.frames),
        steps=_or(settings.steps, model.steps),
        batch=settings.batch,
        dtype=dtype,
        vae_dtype=_dtype(sixteen(vae)),
        guidance=model.guidance if settings.guidance is None else settings.guidance,
        compiled=settings.compiled,
        channels_last=settings.channels_last,
        attention=settings.attention,
        tiled=settings.tiled,
    )
    for name in ("width", "height", "steps", "batch", "frames"):
        if getattr(choice, name) < 1:
            raise BadInput(f"{name} is {getattr(choice, name)}; it must be 1 or more.")
    if choice.attention not in ("sdpa", "math"):
        raise BadInput(
            f"attention {choice.attention!r} is not known. Allowed are: sdpa (fused), math "
            "(written out)."
        )
    return choice


def _or(setting: int | None, default: int) -> int:
    """The setting where there is one, 0 included: 0 is refused by name, not replaced."""
    return default if setting is None else setting


def _dtype(name: str) -> str:
    if name.lower() not in DTYPES:
        raise BadInput(
            f"dtype {name!r} is not known to the forecast. Allowed are: {', '.join(DTYPES)}."
        )
    return DTYPES[name.lower()]


def _traced(component: Component, geometry: Geometry, dtype: str, attention: str) -> Traced:
    return Traced(
        library=component.library,
        class_name=component.class_name,
        config=component.config,
        role=component.role,
        geometry=geometry,
        element=4 if dtype in ("fp32", "tf32") else 2,
        attention="math" if attention == "math" else "sdpa",
    )


def _text(component: Component, at: ForecastChoice) -> ComponentRun:
    dtype = sixteen(at.dtype)
    geometry = Geometry(batch=1, width=512, height=512, tokens=component.tokens)
    # diffusers encodes the prompt and the negative prompt one after the other.
    return ComponentRun(
        traced=_traced(component, geometry, dtype, "sdpa"),
        dtype=dtype,
        times=2 if at.guidance else 1,
    )


def _denoise(model: Model, component: Component, at: ForecastChoice) -> ComponentRun:
    rows = at.batch * (2 if at.guidance else 1)
    geometry = Geometry(
        batch=rows, width=at.width, height=at.height, frames=at.frames, tokens=model.denoiser_tokens
    )
    return ComponentRun(
        traced=_traced(component, geometry, at.dtype, at.attention),
        dtype=at.dtype,
        compiled=at.compiled,
        times=at.steps,
        channels_last=at.channels_last,
        step_work=1.0,
    )


def _decode(component: Component, at: ForecastChoice) -> ComponentRun:
    width, height, times = at.width, at.height, 1.0
    if at.tiled:
        step = TILE_PIXELS * (1 - TILE_OVERLAP)
        times = max(1.0, -(-width // step)) * max(1.0, -(-height // step))
        width, height = min(width, TILE_PIXELS), min(height, TILE_PIXELS)
    geometry = Geometry(batch=at.batch, width=width, height=height, frames=at.frames)
    return ComponentRun(
        traced=_traced(component, geometry, at.vae_dtype, at.attention),
        dtype=at.vae_dtype,
        compiled=at.compiled,
        times=times,
        channels_last=at.channels_last,
    )


def _first_steps(runs: Sequence[ComponentRun]) -> tuple[ComponentRun, ...]:
    """Of a UNet and its ControlNet, which run in one step, the first has the step's own work."""
    return tuple(
        run if i == 0 else msgspec.structs.replace(run, step_work=0.0) for i, run in enumerate(runs)
    )


def _pixels(at: ForecastChoice) -> float:
    return float(at.width * at.height * at.frames * at.batch)
