"""Formatting: three significant digits, the right unit, and durations back again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base import units
from halftime.base.errors import BadInput


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (2.41, "2.41 s"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (890e-3, "890 ms"),
        (5e-6, "5.00 µs"),
        (-0.002, "-2.00 ms"),
        (None, "-"),
        (4e-10, "0.40 ns"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (units.size, 2**21, "2.00 MiB"),
        (units.size, 512, "512 B"),
        (units.flops, 1.35e13, "13.5 TFLOP"),
        (units.flops_per_second, 4e11, "400 GFLOP/s"),
        (units.bandwidth, 6e11, "600 GB/s"),
        (units.share, 0.214, "21.4 %"),
        (units.ratio, 2.153, "2.15x"),
        (units.count, 1234567, "1,234,567"),
    ],
)
def test_other_units(function, value: float, text: str) -> None:
    assert function(value) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("2700ms", 2.7), ("10m", 600), ("0.5", 0.5), ("1 h", 3600), ("20us", 2e-5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "2 parsecs", "-1s", "1e3s"])
def test_durations_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not a duration"):
        units.parse_seconds(text)


@given(st.floats(1e-9, 1e6))
def test_every_duration_reads_back_within_its_digits(value: float) -> None:
    text = units.seconds(value)
    scale = {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[text.split()[1]]
    assert float(text.split()[0]) * scale == pytest.approx(value, rel=0.006)
