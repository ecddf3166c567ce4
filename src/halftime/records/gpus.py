"""GPUs as data: peak rates, bandwidth, memory and power, each row with its source.

`data/gpus.csv` is the table; anyone can add a row. Rates are dense, with
fp32 accumulation; units are decimal, as on datasheets.
"""

from __future__ import annotations

import csv
import difflib
import re
from functools import cache
from importlib import resources
from typing import Literal

from halftime.base.errors import UnknownDevice
from halftime.records.base import Record

Rate = Literal["fp16", "bf16", "tf32", "fp32", "int8", "fp8", "fp4"]
# The table's columns; fp4 is worked out of fp8.
RATES: tuple[Rate, ...] = ("fp16", "bf16", "tf32", "fp32", "int8", "fp8")

_MARKS = re.compile(r"\((?:R|TM)\)", re.IGNORECASE)  # 'Intel(R) Data Center GPU Max 1550'


class Gpu(Record, frozen=True, kw_only=True):
    """One GPU. `peak` is FLOP/s by number format; formats without tensor cores are absent."""

    name: str
    architecture: str
    memory_bytes: float
    peak: dict[str, float]  # FLOP/s
    bandwidth: float  # bytes/s
    l2_bytes: float
    sms: int
    watts: float
    source: str


def plain(name: str) -> str:
    """Lower case, letters and digits only."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def gpu_named(name: str) -> Gpu:
    """The GPU of that name or alias, however it is punctuated.

    Raises UnknownDevice, naming the nearest.
    """
    gpu = find_gpu(name)
    if gpu is None:
        near = difflib.get_close_matches(plain(name), list(_names()), n=3, cutoff=0.5)
        nearest = dict.fromkeys(_names()[word].name for word in near)
        hint = ", ".join(nearest or [gpu.name for gpu in all_gpus()])
        raise UnknownDevice(
            f"GPU {name!r} is not in the table. Nearest: {hint}. `halftime forecast gpus` "
            "lists all."
        )
    return gpu


def find_gpu(name: str) -> Gpu | None:
    """As `gpu_named`, or None."""
    word = plain(_MARKS.sub("", name))
    for prefix in ("", "nvidia", "tesla", "geforce", "nvidiageforce", "amd", "intel"):
        if word.startswith(prefix) and word[len(prefix) :] in _names():
            return _names()[word[len(prefix) :]]
    return None


@cache
def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, in its order."""
    return tuple(_gpu(row) for row in _rows())


@cache
def _names() -> dict[str, Gpu]:
    return {
        plain(name): gpu
        for gpu, row in zip(all_gpus(), _rows(), strict=True)
        for name in (row["gpu"], *row["aliases"].split(";"))
        if name
    }


def _rows() -> list[dict[str, str]]:
    path = resources.files("halftime.records").joinpath("data", "gpus.csv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _gpu(row: dict[str, str]) -> Gpu:
    peak: dict[str, float] = {
        str(rate): float(row[column]) * 1e12 for rate in RATES if row[column := _column(rate)]
    }
    if row["architecture"] == "blackwell" and "fp8" in peak:
        # nvfp4, dense: of fp8 with fp32 accumulation, which GeForce cards do at half their rate
        peak["fp4"] = peak["fp8"] * (4 if row["gpu"].startswith("RTX 50") else 2)
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
