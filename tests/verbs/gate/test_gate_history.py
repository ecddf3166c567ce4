"""The history: one line for each verdict, and the chart of those of the same question."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gate_machine import Machine
from halftime.base.lines import append_lines, read_lines
from halftime.records import Workload
from halftime.records.gate import Gate, GateWord, PastGate
from halftime.report.gate import report_of
from halftime.report.gate_history import history_section
from halftime.report.markdown import markdown
from halftime.report.model import Table, Text
from halftime.report.page import html
from halftime.verbs.gate.accept import accept
from halftime.verbs.gate.history import MOST, line_of, with_history


@pytest.fixture(scope="module")
def timed() -> Gate:
    facts = {"processor": "A CPU", "cores": "2", "device": "cpu", "versions.numpy": "2"}
    return Machine(slower={"vae_decode": 0.03}, versions=facts).gate(budget=600)


def test_a_line_has_what_a_later_reader_needs(timed: Gate) -> None:
    line = line_of(timed)
    assert (line.verdict, line.speed) == ("slower", "slower")
    assert (line.ratio, line.low, line.high) == (timed.ratio, timed.low, timed.high)
    assert line.machine == "A CPU, 2 cores"
    assert line.versions == {"torch": "2.13", "numpy": "2"}
    assert line.counts["waits in the loop"] == 100
    assert line.stage_seconds["vae_decode"] == pytest.approx(0.08, rel=0.1)
    assert line.seconds == pytest.approx(0.23, rel=0.1)
    assert (line.base, line.candidate, line.created) == ("before", "now", timed.created)


def test_the_graphics_card_comes_first() -> None:
    facts = {"device": "cuda:0", "device_name": "A GPU", "processor": "A CPU", "cores": "8"}
    assert line_of(Machine(versions=facts).gate(exact=True)).machine == "A GPU; A CPU, 8 cores"


def test_what_was_accepted_stands_in_it() -> None:
    record = Machine(waits=1).gate(exact=True, acceptances=(accept("waits=1", "a cache"),))
    line = line_of(record)
    assert (line.verdict, line.accepted, line.seconds) == ("accepted", ("a cache",), None)


def past(timed: Gate, **changes: object) -> PastGate:
    return msgspec.structs.replace(line_of(timed), **changes)


def test_only_the_same_question_is_taken_along(timed: Gate, tmp_path: Path) -> None:
    file = str(tmp_path / "history.jsonl")
    assert with_history(timed, file, line_of(timed)).history == (line_of(timed),)
    changed = msgspec.structs.replace(timed, workload=Workload(steps=3))
    for record, recipe in ((timed, None), (changed, None), (timed, "fast.toml")):
        append_lines(file, (line_of(record, recipe),))
    with Path(file).open("a") as lines:
        lines.write('{"created": "cut o')
    record = with_history(timed, file, line_of(timed))
    assert len(record.history) == 2
    assert "passed over: line 4" in record.notes[-1]
    append_lines(file, (line_of(timed),))
    assert len(read_lines(file, PastGate).records) == 4
    append_lines(file, (line_of(timed),) * (MOST + 5))
    assert len(with_history(timed, file, line_of(timed)).history) == MOST + 1


VERDICTS: tuple[GateWord, ...] = ("pass", "slower", "worse", "accepted", "faster", "undecided")


def history_of(timed: Gate) -> tuple[PastGate, ...]:
    counts = {"FLOPs": 2e9, "waits in the loop": 0.0, "operations": 100.0}
    return tuple(
        past(
            timed,
            verdict=verdict,
            created=f"2026-11-0{day}T10:00:00+00:00",
            commit=f"{day}abcdef0123",
            ratio=1 + day / 100,
            low=None if day == 2 else 0.9,
            machine="<b>other</b> $x$" if day == 3 else "A CPU, 2 cores",
            counts=counts | {"waits in the loop": float(day), "FLOPs": 2e9 + day},
        )
        for day, verdict in enumerate(VERDICTS, 1)
    )


def test_the_page_has_a_panel_for_each_thing_that_changed(timed: Gate) -> None:
    history = history_of(timed)
    record = msgspec.structs.replace(timed, history=history)
    page = html(report_of(record), record)
    chart = re.search(r"<svg class=\"chart\".*?</svg>", page, re.DOTALL)
    assert chart
    for words in ("ms a call", "% slower than base", "times the first", "waits in the loop"):
        assert words in chart[0]
    assert "operations" not in chart[0]  # it did not change
    assert "1abcdef" in chart[0]
    assert "<b>other" not in page
    assert all(f">{verdict}<" in chart[0] for verdict in VERDICTS)


def test_the_sentence_counts_verdicts_and_compares_this_machine(timed: Gate) -> None:
    text = markdown(report_of(msgspec.structs.replace(timed, history=history_of(timed))))
    assert "6 verdicts since 2026-11-01: 1 pass, 1 slower, 1 worse" in text
    assert re.search(r"on this machine 20\d ms a call then, 21\d ms now\.", text)
    assert "| 2026-11-06 | 6abcdef012 | undecided | +6 |" in text


def test_counters_alone_are_drawn_without_a_clock(timed: Gate) -> None:
    history = tuple(
        msgspec.structs.replace(p, ratio=None, base_seconds=None) for p in history_of(timed)
    )
    section = history_section(history)
    assert "ms a call" not in str(section.blocks[0])
    assert "times the first" in str(section.blocks[0])
    same = tuple(msgspec.structs.replace(p, counts={}) for p in history)
    sentence, table = history_section(same).blocks  # there is nothing to draw
    assert isinstance(sentence, Text)
    assert isinstance(table, Table)
    assert history_section(history[:1]).blocks == ()
