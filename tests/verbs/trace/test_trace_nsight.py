"""An SQLite export of Nsight Systems gives the Session that a torch.profiler trace gives."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadFile
from trace_synthetic import Synthetic, diffusion


def test_the_same_run_in_both_formats_is_the_same_session(tmp_path: Path) -> None:
    trace = diffusion(Synthetic(), steps=6)
    chrome = halftime.trace(trace.write(tmp_path / "t.json"))
    nsight = halftime.trace(trace.write_nsight(tmp_path / "t.sqlite"))
    assert nsight.device == chrome.device
    assert nsight.on_device == chrome.on_device
    assert nsight.ledger == chrome.ledger
    assert nsight.transfers == chrome.transfers
    assert [(w.name, w.count, w.wall_seconds) for w in nsight.syncs] == [
        (w.name, w.count, w.wall_seconds) for w in chrome.syncs
    ]
    assert nsight.environment.device_name == "Synthetic"
    assert nsight.environment.device_memory_bytes == 24 << 30


def test_an_export_with_few_tables_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = diffusion(Synthetic()).write_nsight(tmp_path / "t.sqlite")
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE NVTX_EVENTS")
        database.execute("DROP TABLE TARGET_INFO_GPU")
        database.execute("DROP TABLE CUPTI_ACTIVITY_KIND_RUNTIME")
        database.commit()
    session = halftime.trace(path)
    assert session.device is not None
    assert any("no runtime calls" in doubt for doubt in session.doubts)


def test_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE pictures (id INTEGER)")
        database.commit()
    with pytest.raises(BadFile, match="nsys export"):
        halftime.trace(path)


def test_a_chrome_trace_is_needed_to_annotate_one(tmp_path: Path) -> None:
    from halftime.cli import _run

    path = diffusion(Synthetic()).write_nsight(tmp_path / "t.sqlite")
    assert _run(["trace", str(path), "--perfetto", str(tmp_path / "x.json")], debug=False) == 2
