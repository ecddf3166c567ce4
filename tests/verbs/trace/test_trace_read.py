"""Reading traces of any origin: damaged, foreign and odd ones give a sentence or an honest part,
never a traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import halftime
from halftime.base.errors import BadFile, HalftimeError
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.report.model import Table
from halftime.report.session import report_of
from halftime.verbs.profile.traced import trace_call
from halftime.verbs.trace.read import read
from tiny_pipelines import PIPELINES
from trace_synthetic import Synthetic, diffusion


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return diffusion(Synthetic(), steps=40).write(tmp_path / "whole.json")


def test_a_truncated_file_gives_its_whole_events(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    cut = read(path)
    assert 0.4 < len(cut.device) / 890 < 0.8
    assert any("cut off" in note for note in cut.notes)
    assert halftime.trace(path).notes == cut.notes


def test_a_damaged_gzip_gives_what_stands_before_the_damage(path: Path) -> None:
    packed = bytearray(gzip.compress(path.read_bytes(), 1))
    path = path.with_suffix(".json.gz")
    path.write_bytes(packed[: int(0.7 * len(packed))])
    assert any("ends too early" in note for note in read(path).notes)
    packed[int(0.8 * len(packed))] ^= 0xFF
    path.write_bytes(packed)
    assert read(path).notes


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"hello", "is not a Chrome trace"),
        (b"{}", "is not a Chrome trace"),
        (b'{"traceEvents": []}', "holds no events"),
        (b'{"traceEvents": [{"ph": "M"}]}', "holds no events"),
        (b"\x1f\x8b\x08\x00", "nothing can be read"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=complaint):
        read(path)


@given(st.binary(max_size=300))
def test_random_bytes_never_surprise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.json"
    path.write_bytes(data)
    with pytest.raises(HalftimeError):
        halftime.trace(path)


EVENT = st.fixed_dictionaries(
    {"ph": st.sampled_from(["X", "i", "M", "s"]), "name": st.text(max_size=8)},
    optional={
        "cat": st.sampled_from(
            ["kernel", "cuda_runtime", "cpu_op", "user_annotation", "gpu_memcpy", "x"]
        ),
        "ts": st.integers(0, 10**6) | st.floats(0, 1e6) | st.just("12.5"),
        "dur": st.integers(0, 1000),
        "pid": st.integers(0, 3) | st.text(max_size=3),
        "tid": st.integers(0, 3) | st.text(max_size=3),
        "args": st.fixed_dictionaries(
            {}, optional={"correlation": st.integers(-2, 5), "stream": st.integers(0, 2)}
        ),
    },
)


@given(st.lists(EVENT, min_size=1, max_size=25))
def test_any_well_formed_events_give_a_session_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.json"
    path.write_text(json.dumps({"traceEvents": events}))
    try:
        session = halftime.trace(path)
    except BadFile:
        return
    if session.ledger:
        assert sum(row.seconds for row in session.ledger) == pytest.approx(
            session.wall_seconds, abs=1e-9
        )


def test_rocm_nanoseconds_the_array_form_and_ranks(tmp_path: Path) -> None:
    trace = diffusion(Synthetic())
    for event in trace.events:
        event["name"] = str(event["name"]).replace("cuda", "hip")
        event["ts"] = float(str(event["ts"])) + 0.123
    data = trace.data()
    data["displayTimeUnit"] = "ns"
    data["distributedInfo"] = {"rank": 3, "world_size": 8}
    path = tmp_path / "rocm.json"
    path.write_text(json.dumps(data))
    session = halftime.trace(path)
    assert session.device is not None
    assert session.device.idle_by_cause["sync"] == pytest.approx(525e-6, abs=1e-9)
    assert "rank 3" in session.environment.system
    path.write_text(json.dumps(trace.events))
    assert halftime.trace(path).wall_seconds == pytest.approx(session.wall_seconds)


def test_a_real_trace_of_a_real_pipeline_on_the_cpu(tmp_path: Path) -> None:
    tiny = PIPELINES["sdxl"]
    workload = Workload(steps=3, width=32, height=32)
    path = trace_call(LoadedPipeline(tiny.build(), "x", ()).pipeline, workload, tmp_path)
    session = halftime.trace(path)
    rows = {row.stage: row for row in session.ledger}
    assert {"encode_prompt", "denoise", "vae_decode", "postprocess"} <= set(rows)
    assert rows["denoise"].per_step is not None
    assert rows["denoise"].per_step.count == 3
    assert sum(row.seconds for row in session.ledger) == pytest.approx(session.wall_seconds)
    assert session.device is None
    assert any("no device operations" in doubt for doubt in session.doubts)


@pytest.mark.slow
def test_a_real_trace_without_our_ranges_is_read_by_diffusers_names(tmp_path: Path) -> None:
    pipeline = PIPELINES["sdxl"].build()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], with_stack=True
    ) as profiler:
        pipeline(**PIPELINES["sdxl"].arguments(3))
    profiler.export_chrome_trace(str(tmp_path / "t.json"))
    rows = {row.stage: row for row in halftime.trace(tmp_path / "t.json").ledger}
    assert {"encode_prompt", "denoise", "vae_decode", "postprocess"} <= set(rows)
    assert rows["denoise"].per_step is not None
    assert rows["denoise"].per_step.count == 3


def test_a_page_says_of_the_run_what_was_recorded_and_no_more(tmp_path: Path) -> None:
    session = halftime.trace(diffusion(Synthetic(), steps=5).write(tmp_path / "t.json"))
    assert session.workload.steps == 5
    report = report_of(session)
    [section] = [s for s in report.sections if s.title == "What was run, where"]
    [table] = section.blocks
    assert isinstance(table, Table)
    assert dict(table.rows)["steps"] == "5"
    assert set(dict(table.rows)) == {"recording", "steps", "device", "machine", "halftime"}
