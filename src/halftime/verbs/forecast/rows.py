"""Measurements as rows of a CSV file.

The column `parts` is `component:batch=B:px=P:dtype=D:MODE:ATTENTION:xN`, joined by `;`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from halftime.base.errors import BadFile, BadInput
from halftime.base.store import read_bytes
from halftime.records import Record
from halftime.verbs.forecast.architectures import ARCHITECTURES, canonical
from halftime.verbs.forecast.cache import Traced
from halftime.verbs.forecast.geometry import Geometry
from halftime.verbs.forecast.predict import ComponentRun, StageWork
from halftime.verbs.forecast.presets import PRESETS
from halftime.verbs.forecast.roofline import DTYPES

# Denoisers of one family under several names; otherwise the name up to its first underscore.
FAMILIES = {
    "sd15_inpaint_unet": "sd15",
    "sd15_controlnet": "sd15",
    "ssd1b_unet": "sdxl",
    "vega_unet": "sdxl",
    "sd35_medium": "sd3",
    "sd35_large": "sd3",
    "bk_sdm_base_unet": "sd15",
    "bk_sdm_small_unet": "sd15",
}
FLAGS = ("eager", "compile", "compiled", "sdpa", "math", "xformers", "flash", "channels_last")
COLUMNS = ("id", "gpu", "kind", "parts", "milliseconds")


class Part(Record, frozen=True, kw_only=True):
    """One component of a row: what to trace, how it ran, and how often."""

    component: str  # canonical name
    traced: Traced
    dtype: str
    compiled: bool
    times: int


class MeasuredRow(Record, frozen=True, kw_only=True):
    """One measurement. `kind`: 'step', 'stage' or 'total', with '-trt' where an engine ran."""

    id: str
    gpu: str
    host: str
    kind: str
    parts: tuple[Part, ...]
    seconds: float
    family: str
    source: str


class Unreadable(Record, frozen=True, kw_only=True):
    """A row that cannot be evaluated, and why."""

    id: str
    gpu: str
    kind: str
    reason: str


def read_rows(path: Path | str) -> tuple[list[MeasuredRow], list[Unreadable]]:
    """The rows of a file, in order; a row that cannot be understood becomes Unreadable.

    Raises BadFile.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig")))
        lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{path} is not a CSV file: {error}.") from error
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise BadFile(
            f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}."
        )
    rows: list[MeasuredRow] = []
    refused: list[Unreadable] = []
    for index, row in enumerate(lines, 1):
        text = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        try:
            rows.append(_row(text, index))
        except (BadInput, ValueError) as error:
            name = text["id"] or f"row {index}"
            refused.append(
                Unreadable(id=name, gpu=text["gpu"], kind=text["kind"], reason=str(error))
            )
    return rows, refused


def _row(row: dict[str, str], index: int) -> MeasuredRow:
    milliseconds = float(row["milliseconds"])
    if not 0 < milliseconds < float("inf"):
        raise BadInput(f"milliseconds is {row['milliseconds']!r}; it must be positive")
    kind = row["kind"].removesuffix("-trt")
    if kind not in ("step", "stage", "total"):
        raise BadInput(
            f"kind {row['kind']!r} is not step, stage or total; of engines only TensorRT ('-trt') "
            "is forecast: others bring kernels of their own that a trace does not show"
        )
    parts = tuple(parse_part(text) for text in row["parts"].split(";") if text.strip())
    if not parts:
        raise BadInput("no parts")
    return MeasuredRow(
        id=row["id"] or f"row {index}",
        gpu=row["gpu"],
        host=row.get("host") or row["gpu"],
        kind=row["kind"],
        parts=parts,
        seconds=milliseconds / 1e3,
        family=row.get("family") or family_of(parts),
        source=row.get("source", ""),
    )


def parse_part(text: str) -> Part:
    """One part. Raises BadInput, naming the word that is not understood."""
    name, *words = (word.strip() for word in text.strip().split(":"))
    component = canonical(name)
    if component is None:
        raise BadInput(f"component {name!r} is not built in")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    flags = [word for word in words if word and "=" not in word]
    times = next((int(word[1:]) for word in flags if word[:1] == "x" and word[1:].isdecimal()), 1)
    dtype = DTYPES.get(options.get("dtype", "fp16").lower())
    if dtype is None:
        raise BadInput(f"dtype {options['dtype']!r} is not known")
    unknown = [word for word in flags if word.lower() not in FLAGS and not word.startswith("x")]
    if unknown:
        raise BadInput(f"{unknown[0]!r} in {text!r} is not understood")
    return Part(
        component=component,
        traced=_traced(component, options, dtype, written_out="math" in flags),
        dtype=dtype,
        compiled=any(word.startswith("compile") for word in flags),
        times=times,
    )


def _traced(component: str, options: dict[str, str], dtype: str, *, written_out: bool) -> Traced:
    architecture = ARCHITECTURES[component]
    px = options.get("px", "1024").lower().split("x")
    width, height = int(px[0]), int(px[-1])
    tokens = int(options.get("tokens", 0))
    if architecture.role == "text_encoder":
        tokens, width, height = tokens or width, 512, 512
    if min(width, height) < 1:
        raise BadInput(f"px={options['px']} is not a size")
    geometry = Geometry(
        batch=int(options.get("batch", 1)),
        width=width,
        height=height,
        frames=int(options.get("frames", _frames(component))),
        tokens=tokens,
    )
    return Traced(
        library=architecture.library,
        class_name=architecture.class_name,
        config=architecture.config,
        role=architecture.role,
        geometry=geometry,
        element=4 if dtype in ("fp32", "tf32") else 2,
        attention="math" if written_out else "sdpa",
    )


def _frames(component: str) -> int:
    """A video component's usual number of frames, where a row does not say; 1 for pictures."""
    return max((p.frames for p in PRESETS.values() if component in (p.denoiser, p.vae)), default=1)


def works_of(row: MeasuredRow) -> tuple[StageWork, ...]:
    """What a row measured, as work: a step includes the scheduler, a call the pipeline too."""
    engine = row.kind.endswith("-trt")
    stepping = not row.kind.startswith("stage")
    runs = []
    for part in row.parts:
        step = stepping and part.traced.role == "denoiser"
        stepping = stepping and not step
        runs.append(
            ComponentRun(
                traced=part.traced,
                dtype=part.dtype,
                compiled=part.compiled,
                times=part.times,
                engine=engine,
                step_work=float(step),
            )
        )
    if not row.kind.startswith("total"):
        return (StageWork(stage=row.kind, runs=tuple(runs)),)
    pixels = sum(_pixels(part) for part in row.parts if part.traced.role == "vae")
    return (StageWork(stage="total", runs=tuple(runs), pixels=pixels, calls=1),)


def _pixels(part: Part) -> float:
    at = part.traced.geometry
    return float(part.times * at.batch * at.width * at.height * at.frames)


def family_of(parts: tuple[Part, ...]) -> str:
    """The model family: that of the denoiser, otherwise of what ran."""
    names = [part.component for part in parts if ARCHITECTURES[part.component].role == "denoiser"]
    if not names:
        return ARCHITECTURES[parts[0].component].role.removesuffix("_encoder")
    return FAMILIES.get(names[0], names[0].split("_")[0])
