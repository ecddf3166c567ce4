"""An SQLite export of Nsight Systems gives the Session that a torch.profiler trace gives."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadFile
from halftime.verbs.trace.device import launches
from halftime.verbs.trace.run import explain
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


def changed(path: Path, statements: str) -> Path:
    """The run as an export that these statements have changed."""
    diffusion(Synthetic(), steps=4, kernels=6).write_nsight(path)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(statements)
        database.commit()
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE NVTX_EVENTS DROP COLUMN textId",
        "ALTER TABLE NVTX_EVENTS DROP COLUMN eventType",
        "ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL DROP COLUMN demangledName",
        "ALTER TABLE CUPTI_ACTIVITY_KIND_MEMCPY DROP COLUMN bytes",
        "ALTER TABLE TARGET_INFO_GPU DROP COLUMN totalMemory",
        "UPDATE NVTX_EVENTS SET eventType = 70",
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (5, NULL, 0, 7, 999, 1, 1)",  # never ended
        "INSERT INTO StringIds VALUES (998, NULL), (999, CAST(x'ff41' AS TEXT))",
        "ALTER TABLE CUPTI_ACTIVITY_KIND_RUNTIME RENAME TO CUPTI_ACTIVITY_KIND_DRIVER",
    ],
)
def test_what_other_versions_export(tmp_path: Path, statement: str) -> None:
    plain = halftime.trace(changed(tmp_path / "plain.sqlite", ""))
    odd = halftime.trace(changed(tmp_path / "odd.sqlite", statement))
    assert odd.ledger == plain.ledger
    assert odd.device is not None
    assert plain.device is not None
    assert odd.device.idle_by_cause == plain.device.idle_by_cause


def test_the_drivers_blocking_copy_is_a_wait(tmp_path: Path) -> None:
    """Its version is part of its name, where that of the runtime's calls is only their number."""
    path = changed(
        tmp_path / "t.sqlite",
        "UPDATE StringIds SET value = 'cuMemcpyDtoH_v2' WHERE value LIKE 'cudaStreamSync%'",
    )
    waits = {wait.name: wait.count for wait in halftime.trace(path).syncs}
    assert waits == {"cuMemcpyDtoH_v2": 4, "cudaDeviceSynchronize": 1}


def test_processes_count_their_calls_and_devices_each_for_itself(tmp_path: Path) -> None:
    """Two ranks in one report, the second a moment later, each on what it calls device 0."""
    first, second, later = 100 << 24, 200 << 24, 3000
    tables = {
        "KERNEL": "start + {0}, end + {0}, deviceId, streamId, correlationId, demangledName, "
        "shortName, {1}",
        "MEMCPY": "start + {0}, end + {0}, deviceId, streamId, correlationId, bytes, copyKind, {1}",
        "RUNTIME": "start + {0}, end + {0}, {1} + 1, correlationId, nameId",
    }
    statements = ["CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId, cudaId, pid)"]
    for kind, columns in tables.items():
        table = f"CUPTI_ACTIVITY_KIND_{kind}"
        if kind == "RUNTIME":
            statements.append(f"UPDATE {table} SET globalTid = {first + 1}")
        else:
            statements.append(f"ALTER TABLE {table} ADD COLUMN globalPid")
            statements.append(f"UPDATE {table} SET globalPid = {first}")
        chosen = columns.format(later, second)
        statements.append(f"INSERT INTO {table} SELECT {chosen} FROM {table}")
    statements += [
        "INSERT INTO TARGET_INFO_CUDA_DEVICE VALUES (2, 0, 100), (5, 0, 200)",
        "INSERT INTO TARGET_INFO_GPU VALUES (2, 'A', 1), (5, 'B', 1)",
    ]
    reading = explain(changed(tmp_path / "two.sqlite", ";".join(statements)))
    assert [(row.device, row.name) for row in reading.session.devices] == [(2, "A"), (5, "B")]
    recorded = reading.trace
    launched_by = launches(recorded)
    for card in (2, 5):  # each operation by a call of its own process
        own = recorded.device.device == card
        assert len(set(recorded.runtime.thread[launched_by[own]].tolist())) == 1
    assert len(set(launched_by.tolist())) == len(recorded.device)
