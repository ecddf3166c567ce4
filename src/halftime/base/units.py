"""Formatting, and only here: inside halftime everything is seconds, bytes, FLOPs and ratios.

Each function takes a plain number and returns what a person reads. `None` reads as `-`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from halftime.base.errors import BadInput

NOTHING = "-"
SMALLEST_SECONDS = 1e-12  # less is rounding

_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_DECIMAL = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _scaled(value: float, scale: tuple[tuple[float, str], ...]) -> tuple[str, str]:
    for factor, unit in scale:
        if abs(value) >= factor * 0.9995:
            return _digits(value / factor), unit
    factor, unit = scale[-1]
    return _digits(value / factor), unit


def seconds(value: float | None) -> str:
    """0.01234 -> '12.3 ms'."""
    if value is None:
        return NOTHING
    if abs(value) < SMALLEST_SECONDS:
        return "0 s"
    number, unit = _scaled(value, _TIME)
    return f"{number} {unit}"


def size(value: float | None) -> str:
    """Bytes: 2**21 -> '2.00 MiB'."""
    if value is None:
        return NOTHING
    number, unit = _scaled(value, _BINARY)
    return f"{value:.0f} B" if unit == "B" else f"{number} {unit}"


def _decimal(value: float | None, suffix: str) -> str:
    if value is None:
        return NOTHING
    number, prefix = _scaled(value, _DECIMAL)
    return f"{number} {prefix}{suffix}"


def flops(value: float | None) -> str:
    """FLOPs: 1.35e13 -> '13.5 TFLOP'."""
    return _decimal(value, "FLOP")


def flops_per_second(value: float | None) -> str:
    """FLOP/s: 4e11 -> '400 GFLOP/s'."""
    return _decimal(value, "FLOP/s")


def bandwidth(value: float | None) -> str:
    """Bytes per second, decimal as on datasheets: 6e11 -> '600 GB/s'."""
    return _decimal(value, "B/s")


def share(value: float | None) -> str:
    """A ratio of a whole: 0.214 -> '21.4 %'."""
    return NOTHING if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"


def ratio(value: float | None) -> str:
    """A speedup: 2.153 -> '2.15x'."""
    return NOTHING if value is None else f"{value:.2f}x"


def count(value: float | None) -> str:
    """1234567 -> '1,234,567'."""
    return NOTHING if value is None else f"{value:,.0f}"


# One table: a column's unit decides how it is written, on the console, in markdown and in HTML.
FORMATS: dict[str, Callable[[float | None], str]] = {
    "seconds": seconds,
    "bytes": size,
    "flops": flops,
    "flops_per_second": flops_per_second,
    "bytes_per_second": bandwidth,
    "share": share,
    "ratio": ratio,
    "count": count,
}

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>h|min|m|s|ms|us|µs)?", re.ASCII)
_DURATION_UNITS = {
    "h": 3600.0,
    "min": 60.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    None: 1.0,
}


def parse_seconds(text: str) -> float:
    """'2s', '2700ms', '10m', '0.5' -> seconds. Raises BadInput for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadInput(
            f"{text!r} is not a duration. Write a number with one of: h, min, m, s, ms, us; "
            "for example 2.5s."
        )
    return float(match["number"]) * _DURATION_UNITS[match["unit"]]


_SHARE = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<percent>%?)", re.ASCII)


def parse_share(text: str) -> float:
    """'3%', '0.5 %' or '0.03' -> a share of one. Raises BadInput for anything else, and for a bare
    number of 1 or more, which may mean either."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or (not match["percent"] and float(match["number"]) >= 1):
        raise BadInput(f"{text!r} is not a share. Write it as 3% or as 0.03.")
    return float(match["number"]) / (100 if match["percent"] else 1)
