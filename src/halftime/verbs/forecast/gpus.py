"""GPUs as data: peak rates, bandwidth, memory and power, each row with its source; anyone can add
one.

`data/gpus.csv` is the table. Rates are dense, with fp32 accumulation; decimal units, as on
datasheets.
"""

from __future__ import annotations

import csv
import difflib
from functools import cache
from importlib import resources
from typing import Literal

from halftime.base.errors import UnknownDevice
from halftime.records import Record
from halftime.verbs.forecast.architectures import plain

Rate = Literal["fp16", "bf16", "tf32", "fp32", "int8", "fp8"]
RATES: tuple[Rate, ...] = ("fp16", "bf16", "tf32", "fp32", "int8", "fp8")


class Gpu(Record, frozen=True, kw_only=True):
    """One GPU. `peak` holds FLOP/s by number format; a format that it cannot run on tensor cores is
    absent."""

    name: str
    architecture: str
    memory_bytes: float
    peak: dict[str, float]  # FLOP/s
    bandwidth: float  # bytes/s
    l2_bytes: float
    sms: int
    watts: float
    source: str


def gpu_named(name: str) -> Gpu:
    """The GPU of that name or alias, however it is punctuated. Raises UnknownDevice, naming the
    nearest."""
    found = find_gpu(name)
    if found is None:
        near = difflib.get_close_matches(plain(name), list(_names()), n=3, cutoff=0.5)
        hint = ", ".join(dict.fromkeys(_names()[word].name for word in near)) or ", ".join(
            g.name for g in all_gpus()
        )
        raise UnknownDevice(
            f"GPU {name!r} is not in the table. Nearest: {hint}. `halftime forecast gpus` "
            "lists all."
        )
    return found


def find_gpu(name: str) -> Gpu | None:
    """As `gpu_named`, or None."""
    word = plain(name)
    for prefix in ("", "nvidia", "tesla", "geforce", "nvidiageforce"):
        if word.startswith(prefix) and word[len(prefix) :] in _names():
            return _names()[word[len(prefix) :]]
    return None


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, in its order."""
    text = (
        resources.files("halftime.verbs.forecast")
        .joinpath("data", "gpus.csv")
        .read_text(encoding="utf-8")
    )
    return tuple(_gpu(row) for row in csv.DictReader(text.splitlines()))


@cache
def _names() -> dict[str, Gpu]:
    text = (
        resources.files("halftime.verbs.forecast")
        .joinpath("data", "gpus.csv")
        .read_text(encoding="utf-8")
    )
    rows = list(csv.DictReader(text.splitlines()))
    known = {gpu.name: gpu for gpu in all_gpus()}
    return {
        plain(name): known[row["gpu"]]
        for row in rows
        for name in (row["gpu"], *row["aliases"].split(";"))
        if name
    }


def _gpu(row: dict[str, str]) -> Gpu:
    peak: dict[str, float] = {
        str(rate): float(row[column]) * 1e12 for rate in RATES if row[column := _column(rate)]
    }
    return Gpu(
        name=row["gpu"],
        architecture=row["architecture"],
        memory_bytes=float(row["memory_gb"]) * 2**30,
        peak=peak,
        bandwidth=float(row["bandwidth_gbs"]) * 1e9,
        l2_bytes=float(row["l2_mb"]) * 2**20,
        sms=int(row["sms"]),
        watts=float(row["watts"]),
        source=row["source"],
    )


def _column(rate: Rate) -> str:
    return f"{rate}_tops" if rate == "int8" else f"{rate}_tflops"
