"""A file is read piece by piece, and says the same wherever the pieces end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import halftime
from halftime.verbs.trace import events, text
from halftime.verbs.trace.read import Trace, read
from halftime.verbs.trace.text import BLOCK
from trace_synthetic import Synthetic, diffusion

BLOCKS = (64, 700, 5000, 1 << 20)


def read_in_blocks(path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setattr(text, "BLOCK", block)
    monkeypatch.setattr(events, "BLOCK", block)
    return read(path)


def columns(trace: Trace) -> list[list[int]]:
    return [
        column.tolist()
        for table in (trace.device, trace.runtime, trace.host)
        for column in vars(table).values()
    ]


def recording() -> Synthetic:
    trace = diffusion(Synthetic(), steps=6)
    # Objects in a list of an argument look like events, and brackets in text like ends.
    inner = [{"name": "}, {", "id": n} for n in range(60)]
    with trace.range("[{]}", "cpu_op", snapshot=inner):
        trace.work(1.0)
    trace.event("cpu_op", "last", trace.host, 5.0, snapshot=inner)
    return trace


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_pieces_do_not_show(
    tmp_path: Path, block: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = recording()
    data = trace.data()
    # What is said after the events counts, and lists of other things there are no events.
    properties = data.pop("deviceProperties")
    data |= {"samples": [{"name": "x", "ts": 1.0, "ph": "X"}] * 9, "deviceProperties": properties}
    content = json.dumps(data, indent=1).encode()
    path = tmp_path / "t.json"
    path.write_bytes(gzip.compress(content) if packed else content)
    recorded = read_in_blocks(path, block, monkeypatch)
    rows = sorted(
        (str(event["name"]), round((float(str(event["ts"])) - 4555288287032.0) * 1000))
        for event in trace.events
    )
    assert rows == sorted(
        (recorded.names[name], start + round((recorded.origin - 4555288287032.0) * 1000))
        for table in (recorded.device, recorded.runtime, recorded.host)
        for name, start in zip(table.name.tolist(), table.start.tolist(), strict=True)
    )
    assert (recorded.notes, recorded.cut) == ((), False)
    assert recorded.device_names == {0: "Synthetic"}
    assert (recorded.rank, recorded.world_size) == (0, 1)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_pieces_of_a_damaged_file_do_not_show(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = diffusion(Synthetic(), steps=60)
    pieces = trace.text().split('"dur": 4.0')
    path = tmp_path / "t.json"
    path.write_text(
        "".join(
            piece + ('"dur": NaN' if at % 100 == 50 else '"dur": 4.0')
            for at, piece in enumerate(pieces[:-1])
        )
        + pieces[-1]
    )
    damaged = sum(at % 100 == 50 for at in range(len(pieces) - 1))
    recorded = read_in_blocks(path, block, monkeypatch)
    assert damaged > 10
    assert recorded.notes == (
        f"{damaged} events held tokens that are not JSON and were read without them",
        f"{damaged} events have no duration, and count as moments",
    )
    clean = read(trace.write(tmp_path / "clean.json"))
    assert recorded.runtime.start.tolist() == clean.runtime.start.tolist()
    assert columns(recorded)[:9] == columns(clean)[:9]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("part", "cut"), [(0.2, True), (0.7, True), (1.0, False)])
def test_the_pieces_of_a_cut_file_do_not_show(
    tmp_path: Path, block: int, part: float, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = diffusion(Synthetic(), steps=20)
    content = trace.text()
    path = tmp_path / "t.json"
    path.write_text(content[: int(part * len(content))])
    recorded = read_in_blocks(path, block, monkeypatch)
    # each event ends so, and the properties of the device before them
    whole = content[: int(part * len(content))].count("\n  }") - 1
    count = len(recorded.device) + len(recorded.runtime) + len(recorded.host)
    assert (count, recorded.cut) == (whole, cut)
    assert recorded.notes == (("the file is cut off; its whole events were read",) if cut else ())


def test_two_documents_in_one_file_are_both_read(tmp_path: Path) -> None:
    trace = diffusion(Synthetic())
    path = tmp_path / "t.json"
    path.write_text(trace.text() * 2)
    recorded = read(path)
    assert len(recorded.device) + len(recorded.runtime) + len(recorded.host) == 2 * len(
        trace.events
    )


@pytest.mark.parametrize("value", ["1.5", "NaN"])
@pytest.mark.parametrize("padding", [0, BLOCK, 3 * BLOCK])
def test_an_array_within_another_object_is_not_the_files(
    tmp_path: Path, padding: int, value: str
) -> None:
    plain = diffusion(Synthetic())
    nested = {"pad": "x" * padding, "traceEvents": [{"ph": "X", "name": "not ours"}], "of": "y"}
    text = json.dumps({"metadata": nested, "more": "z" * padding, **plain.data()})
    path = tmp_path / "t.json"
    path.write_text(text.replace('"y"', value))
    session = halftime.trace(path)
    assert session.notes == ()
    assert session.device is not None
    assert session.device.busy_seconds == pytest.approx(plain.busy * 1e-6)
    assert session.environment.device_name == plain.vendor.device_name


def test_a_file_whose_beginning_is_damaged_is_read(tmp_path: Path) -> None:
    plain = diffusion(Synthetic())
    text = json.dumps({"command": "QUOTES", "pad": "x" * BLOCK, **plain.data()})
    path = tmp_path / "t.json"
    path.write_text(text.replace("QUOTES", 'run "this"'))
    session = halftime.trace(path)
    assert session.device is not None
    assert session.device.busy_seconds == pytest.approx(plain.busy * 1e-6)
