"""Files with tokens that are not JSON, cut files and files of other tools."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadFile
from halftime.verbs.trace.read import read
from trace_synthetic import Synthetic, diffusion


def run() -> Synthetic:
    return diffusion(Synthetic(), steps=20)


def test_a_bad_number_costs_no_event(tmp_path: Path) -> None:
    trace = run()
    path = tmp_path / "t.json"
    text = trace.text()
    for token in ("NaN", "inf", "-Infinity"):
        path.write_text(text.replace('"dur": 4.0', f'"dur": {token}', 1))
        recorded = read(path)
        assert len(recorded.device) + len(recorded.runtime) + len(recorded.host) == len(
            trace.events
        )
        assert recorded.notes == (
            "1 events held tokens that are not JSON and were read without them",
            "1 events have no duration, and count as moments",
        )
    clean = halftime.trace(trace.write(tmp_path / "clean.json"))
    assert halftime.trace(path).device == clean.device


@pytest.mark.parametrize(
    "name", ['<module "x">', "a\tb", 'lambda: "\n"', "C:\\Users\\x.py(3): f", "\x01"]
)
def test_names_that_are_not_escaped_are_read(tmp_path: Path, name: str) -> None:
    trace = run()
    with trace.frame("FRAME"):
        trace.work(1.0)
    path = tmp_path / "t.json"
    path.write_text(trace.text().replace("FRAME", name))
    recorded = read(path)
    assert len(recorded.device) + len(recorded.runtime) + len(recorded.host) == len(trace.events)
    assert len([n for n in recorded.names if n[:1] == name[:1] or n.strip() == ""]) >= 1


def test_an_event_that_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    trace = run()
    path = tmp_path / "t.json"
    text = trace.text()
    at = text.index('"elementwise_scheduler"')
    begin = text.index('"ts":', at)
    path.write_text(text[:begin] + '"ts": NaN' + text[text.index(",", begin) :])
    recorded = read(path)
    assert (
        len(recorded.device) + len(recorded.runtime) + len(recorded.host) == len(trace.events) - 1
    )
    assert recorded.notes == (
        "1 events could not be read and are left out, the first: elementwise_scheduler",
    )


def test_bad_tokens_take_linear_time(tmp_path: Path) -> None:
    """32,000 events took 7 s and twice as many four times as long; now the ratio is that of the
    sizes."""
    seconds = []
    for repeats in (6, 24):
        trace = Synthetic()
        for _ in range(repeats):
            diffusion(trace, steps=5, kernels=100)
        path = tmp_path / f"{repeats}.json"
        path.write_text(trace.text().replace('"dur": 4.0', '"dur": NaN', 10))
        begin = time.process_time()
        recorded = read(path)
        seconds.append(time.process_time() - begin)
        events = len(recorded.device) + len(recorded.runtime) + len(recorded.host)
        assert events == len(trace.events)
    assert seconds[1] < 10 * seconds[0]  # quadratic would be 16 times


def test_a_cut_file_says_so_before_it_misses_the_device(tmp_path: Path) -> None:
    trace = run()
    # Kineto writes the device's events last.
    trace.events.sort(key=lambda event: event["cat"] in ("kernel", "gpu_memcpy"))
    text = trace.text()
    path = tmp_path / "t.json"
    path.write_text(text[: text.index('"cat": "kernel"') - 10])
    session = halftime.trace(path)
    assert session.device is None
    assert any("cut off" in note for note in session.notes)
    assert any("cut off" in doubt for doubt in session.doubts)
    assert not any("ProfilerActivity" in doubt for doubt in session.doubts)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("x.nsys-rep", b"\x00\x01\x02", "nsys export --type sqlite"),
        ("x.ncu-rep", b"\x00\x01\x02", "torch.profiler or Nsight Systems"),
        ("x.pftrace", b"\n\x10\x00\x00", "traceconv json"),
        ("x.json", b'{"rocprofiler-sdk-tool": [{"metadata": {}}]}', "--output-format pftrace"),
        ("x.pickle", b"\x80\x04\x95\x00device_traces", "memory snapshot"),
        ("x.sqlite", b"SQLite format 3\x00" + bytes(100), "nsys export"),
    ],
)
def test_files_of_other_tools_are_named_with_the_way_out(
    tmp_path: Path, name: str, content: bytes, advice: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadFile, match=advice):
        halftime.trace(path)


def test_a_zip_file_names_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rank0.json", run().text())
    with pytest.raises(BadFile, match=r"with rank0\.json in it"):
        halftime.trace(path)
