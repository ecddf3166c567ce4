"""Workloads: from TOML or from options, checked before anything heavy is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from halftime.base.errors import BadWorkload
from halftime.base.store import read_toml
from halftime.records import Workload

DTYPES = ("float32", "bfloat16", "float16")
_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


def read(path: Path | None) -> Workload:
    """The workload of a TOML file, checked; the default one for None. Raises BadFile or
    BadWorkload."""
    return Workload() if path is None else checked(read_toml(path, Workload))


def change(workload: Workload, changes: Mapping[str, object]) -> Workload:
    """A checked copy with some fields changed. Raises BadWorkload, naming the field."""
    fields = msgspec.to_builtins(workload) | {
        name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()
    }
    try:
        return checked(msgspec.convert(fields, type=Workload))
    except msgspec.ValidationError as error:
        raise BadWorkload(f"the workload is not valid: {error}.") from error


def checked(workload: Workload) -> Workload:
    """The workload, with the dtype's full name. Raises BadWorkload for what no pipeline can run."""
    dtype = _ALIASES.get(workload.dtype or "", workload.dtype)
    if dtype is not None and dtype not in DTYPES:
        raise BadWorkload(
            f"dtype {workload.dtype!r} is not known. Allowed are: {', '.join(DTYPES)}."
        )
    if not workload.prompts:
        raise BadWorkload(
            "the workload has no prompts. Give at least one, for example --prompt 'a red apple'."
        )
    for name, least in (
        ("steps", 1),
        ("images_per_prompt", 1),
        ("width", 1),
        ("height", 1),
        ("seed", 0),
    ):
        value = getattr(workload, name)
        if value is not None and value < least:
            raise BadWorkload(f"{name} is {value}; it must be {least} or more.")
    if workload.guidance is not None and not math.isfinite(workload.guidance):
        raise BadWorkload(
            f"guidance is {workload.guidance}; it must be a finite number, for example 5."
        )
    return msgspec.structs.replace(workload, dtype=dtype)
