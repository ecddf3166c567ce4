"""Counters side by side, and what differs, the likely cause first."""

from __future__ import annotations

import pytest

from halftime.records.gate import GateCounter
from halftime.verbs.gate.compare import (
    BYTES,
    COUNTERS,
    GRAPHS,
    HIDDEN,
    OPERATIONS,
    WAITS,
    compared,
    differences,
    likeliest_first,
)
from halftime.verbs.gate.worker import WorkerAnswer


def counter(
    name: str,
    before: float,
    now: float,
    allowed: tuple[str, ...] = (),
    lines: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> GateCounter:
    rows = compared(
        WorkerAnswer(counts={name: before}, details={name: lines[0]}),
        WorkerAnswer(counts={name: now}, details={name: lines[1]}),
        0.03,
        allowed,
    )
    return next(row for row in rows if row.name == name)


@pytest.mark.parametrize(
    ("name", "before", "now", "worse"),
    [
        (WAITS, 3, 4, True),  # one more is worse
        (WAITS, 4, 3, False),
        (GRAPHS, 0, 1, True),
        (OPERATIONS, 1000, 1029, False),  # within the margin
        (OPERATIONS, 1000, 1031, True),
        (BYTES, 1000, 1031, True),
    ],
)
def test_what_is_worse(name: str, before: float, now: float, worse: bool) -> None:
    assert counter(name, before, now).worse is worse


def test_what_is_allowed_may_rise() -> None:
    assert not counter(GRAPHS, 0, 5, (GRAPHS,)).worse


@pytest.mark.parametrize(
    ("reason", "allowed", "lost"),
    [
        ("RuntimeError: not under a mode", (), True),
        ("RuntimeError: not under a mode", (WAITS,), False),
        (f"unet {HIDDEN}", (), False),  # that is what the user asked for, and time judges it
    ],
)
def test_what_could_be_counted_and_no_longer_can(
    reason: str, allowed: tuple[str, ...], lost: bool
) -> None:
    rows = compared(
        WorkerAnswer(counts={WAITS: 0}), WorkerAnswer(skipped={WAITS: reason}), 0.03, allowed
    )
    assert [row.name for row in rows if row.lost] == ([WAITS] if lost else [])


def test_a_line_that_only_moved_is_no_new_wait() -> None:
    before = ("mine.py:10: x.item() (item, 4 times)",)
    now = ("mine.py:14: x.item() (item, 4 times)", "mine.py:20: y.cpu() (copy, 1 times)")
    row = counter(WAITS, 1, 2, lines=(before, now))
    assert row.details == ("mine.py:20: y.cpu() (copy, 1 times)",)


def test_a_counter_of_one_side_alone_gates_nothing_and_says_why() -> None:
    rows = compared(
        WorkerAnswer(counts={WAITS: 0}), WorkerAnswer(skipped={WAITS: "it is compiled"}), 0.03
    )
    row = next(row for row in rows if row.name == WAITS)
    assert (row.worse, row.candidate, row.skipped) == (False, None, "it is compiled")
    assert [row.name for row in rows] == list(COUNTERS)


def test_the_likely_cause_first() -> None:
    base = {"versions.torch": "2.13", "packages.six": "1", "vae.dtype": "float32", "same": "x"}
    now = {"versions.torch": "2.14", "packages.six": "2", "vae.dtype": "bfloat16", "same": "x"}
    rows = differences({**base, "unet.dtype": "float32"}, {**now, "unet.dtype": "bfloat16"})
    assert [row.name for row in rows][-2:] == ["versions.torch", "packages.six"]
    assert likeliest_first(rows, "vae_decode")[0].name == "vae.dtype"
    assert likeliest_first(rows, "denoise")[0].name == "unet.dtype"
    assert likeliest_first(rows, None) == rows


def test_what_only_one_side_has() -> None:
    (row,) = differences({"a": "1"}, {})
    assert (row.base, row.candidate) == ("1", "-")
