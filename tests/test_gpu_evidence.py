"""`make gpu-evidence`, rehearsed: the cheapest parts in this process, and what ends one early."""

from __future__ import annotations

import os
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from benchmarks.frame import Frame
from benchmarks.gpu import evidence, page, parts
from benchmarks.gpu.models import MODELS, REHEARSES, filled
from halftime.base.store import read_json, write_json
from halftime.fix.apply import applied
from halftime.pipeline.arguments import call_arguments
from halftime.records import Session
from halftime.records.benchmark import Benchmark
from halftime.records.fixes import FixName
from halftime.records.forecast import Ceiling, FixForecast, Forecast, StageForecast
from halftime.records.recipe import Choice
from halftime.report.benchmark import report_of
from scripts import pack_for_offline

ROOT = Path(__file__).parents[1]


@pytest.fixture
def frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Frame:
    monkeypatch.setenv(REHEARSES, "1")
    frame = Frame(evidence.__file__, evidence.__doc__, name="gpu_evidence")
    frame.out = tmp_path / "gpu_evidence.json"
    return frame


def rows_of(frame: Frame, name: str) -> list[dict[str, object]]:
    frame.out = frame.out.with_name(f"{name}.json")
    parts.measure(name, frame, frame.out.parent, 600.0)
    result = read_json(frame.out, Benchmark)
    assert report_of(result).sections
    rows = result.result["rows"]
    assert isinstance(rows, list)
    return rows  # type: ignore[return-value]


def test_the_forecast_is_written_before_anything_is_measured(frame: Frame) -> None:
    assert next(iter(parts.PARTS)) == "predicted"
    rows = rows_of(frame, "predicted")
    assert [row["what"] for row in rows] == ["sdxl", "flux", "sd35", "wan"]
    assert not any("failed" in row for row in rows)
    sdxl, wan = (
        read_json(frame.out.parent / f"forecast_{name}.json", Forecast) for name in ("sdxl", "wan")
    )
    assert (sdxl.width, sdxl.height, sdxl.steps) == (1024, 1024, 30)
    assert (wan.width, wan.height, wan.steps) == (832, 480, 20)


def test_what_was_written_down_is_scored_fix_by_fix_and_in_memory(
    frame: Frame, tmp_path: Path
) -> None:
    """A model that was not measured, a rung of several fixes and one without a forecast have no
    score."""
    write_json(tmp_path / "forecast_sdxl.json", forecast())
    write_json(tmp_path / "forecast_wan.json", forecast())
    rungs = [
        {"what": "before", "fixes": "", "speedup": 1.0, "memory_bytes": 10 << 30},
        {"what": "schedule table", "fixes": "schedule-table", "speedup": 1.08},
        {"what": "loop graph", "fixes": "loop-graph", "failed": "RuntimeError: no"},
        {"what": "both", "fixes": "schedule-table, loop-graph", "speedup": 1.5},
        {"what": "warm-up", "fixes": "text-warmup", "speedup": 1.2},
        {"what": "tiny VAE", "fixes": "tiny-vae", "speedup": 1.05},
    ]
    write_json(tmp_path / "story.json", frame.record({"rows": rungs}))
    scored = list(parts.what_if_scores(tmp_path))
    assert [(row["what"], row["in_band"]) for row in scored] == [
        ("sdxl: schedule-table", False),  # 1.08 is above 1.04
        ("sdxl: tiny-vae", True),
    ]
    assert scored[0]["measured_by_forecast_ratio"] == pytest.approx(1.08 / 1.02)
    [memory] = parts.memory_scores(tmp_path)
    assert (memory["what"], memory["measured_by_forecast_ratio"]) == ("sdxl", 1.25)


def forecast() -> Forecast:
    whole = StageForecast(
        stage="total", seconds=1.0, low=0.5, high=2.0, floor_seconds=0.1, bound="compute",
        flops=1.0, bytes=1.0, kernels=1, device_seconds=1.0, host_seconds=0.1,
    )  # fmt: skip
    fixes = tuple(
        FixForecast(fix=name, ratio=ratio, low=low, high=high)
        for name, ratio, low, high in (
            ("schedule-table", 1.02, 1.0, 1.04),
            ("loop-graph", 1.4, 0.9, 2.2),
            ("tiny-vae", 1.03, 1.01, 1.06),
        )
    )
    return Forecast(
        model="sdxl", gpu="H200", width=1024, height=1024, steps=30, batch=1, guidance=True,
        dtype="bf16", compiled=False, stages=(), total=whole, fixes=fixes,
        ceiling=Ceiling(compute=1.0, bandwidth=1.0), memory_bytes=float(8 << 30),
        gpu_memory_bytes=1.0, fits=True, calibrated_on="",
    )  # fmt: skip


def test_a_rungs_peak_of_memory_is_its_own(
    frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's peak is since the process began, unless it is told to forget."""
    peak = 0
    use = iter([30, 10])

    def drawn(*_: object, **__: object) -> object:
        nonlocal peak
        peak = max(peak, next(use))
        return session

    def forget() -> None:
        nonlocal peak
        peak = 0

    session = Session(
        kind="profile",
        model="tiny",
        pipeline="tiny",
        wall_seconds=1.0,
        workload=MODELS["sdxl"].workload(),
        environment=frame.environment,
    )
    monkeypatch.setattr(parts, "profile", drawn)
    monkeypatch.setattr(parts, "_latents", lambda *_: torch.ones(2))
    monkeypatch.setattr(parts, "_on_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    part = parts.Evidence(frame, tmp_path, 60.0)
    pipeline, workload = MODELS["sdxl"].build(), MODELS["sdxl"].workload()
    parts.ladder(part, pipeline, workload, {"before": (), "after": ()}, "sdxl")
    assert [row["memory_bytes"] for row in part.rows] == [30, 10]


@pytest.mark.parametrize("name", ["overhead", "memory"])
def test_a_part_gives_rows_without_a_gpu(name: str, frame: Frame) -> None:
    rows = rows_of(frame, name)
    assert rows
    assert not [row for row in rows if "failed" in row]


def test_a_rung_that_fails_costs_that_rung(frame: Frame, tmp_path: Path) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    part = parts.Evidence(frame, tmp_path, 60.0)
    part.attempt("bad", fail)
    part.attempt("good", lambda: {"wall_seconds": 1.0})
    rows = read_json(frame.out, Benchmark).result["rows"]
    assert rows == [
        {
            "what": "bad",
            "failed": "RuntimeError: CUDA error: an illegal memory access was encountered",
        },
        {"what": "good", "wall_seconds": 1.0},
    ]


class Scripted(evidence.Collection):
    """Parts that are one line of Python each: they write a row, and end as the line says."""

    lines: dict[str, str]

    def command(self, part: str, seconds: float) -> list[str]:
        record = self.frame.record({"rows": [{"what": part}]})
        write_json(self.folder / "row.json", record)
        # whole from the moment when it is there, as a part writes it
        copy = f"import sys, time; os.link('row.json', '{part}.json')\n"
        code = f"import os; os.chdir({str(self.folder)!r})\n{copy}{self.lines[part]}"
        return [sys.executable, "-c", code]


def collection(frame: Frame, tmp_path: Path, lines: dict[str, str]) -> Scripted:
    scripted = Scripted(frame, tmp_path, True)
    scripted.lines = lines
    return scripted


def test_a_crash_costs_one_part_and_the_page_says_so(frame: Frame, tmp_path: Path) -> None:
    lines = {"story": "os.abort()", "rules": "pass", "serve": "sys.exit('no port')"}
    collected = collection(frame, tmp_path, lines)
    collected.collect(list(lines), 600.0)
    assert [outcome.ended for outcome in collected.outcomes] == [
        "status -6: no output",
        "whole",
        "status 1: no port",
    ]
    result = read_json(frame.out, Benchmark).result
    assert [name for name in lines if name in result] == list(lines)
    text = frame.out.with_suffix(".html").read_text(encoding="utf-8")
    assert "no port" in text
    assert frame.record({}).halftime in text


def test_when_the_time_is_up_what_there_is_is_kept(
    frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 1.0, 1.0, 599.0])
    monkeypatch.setattr(evidence.time, "monotonic", lambda: next(clock, 599.0))
    collected = collection(frame, tmp_path, {"story": "pass", "rules": "pass"})
    collected.collect(["story", "rules"], 600.0)
    assert [outcome.ended for outcome in collected.outcomes] == ["whole", "not begun"]
    assert "story" in read_json(frame.out, Benchmark).result


def test_ctrl_c_keeps_what_there_is_and_ends_what_was_started(
    frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, process: object, seconds: float) -> str:
        while not (tmp_path / "story.json").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence.Collection, "_awaited", interrupted)
    collected = collection(frame, tmp_path, {"story": "time.sleep(600)"})
    with pytest.raises(KeyboardInterrupt):
        collected.collect(["story"], 600.0)
    [outcome] = collected.outcomes
    assert (outcome.ended, outcome.rows) == ("interrupted", 1)
    assert "story" in read_json(frame.out, Benchmark).result


def test_the_table_says_when_nothing_has_run_and_takes_no_rehearsal(
    frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page.lines([]) == [page.NOT_YET]
    rung = {"what": "before", "wall_seconds": 4.2, "speedup": 1.0}
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    for name, rehearsal in (("a", True), ("b", False)):
        (tmp_path / "gpu" / name).mkdir(parents=True)
        record = frame.record({"rehearsal": rehearsal, "story": [rung]})
        write_json(tmp_path / "gpu" / name / "gpu_evidence.json", record)
    [run] = page.records()
    assert run.result["rehearsal"] is False
    assert "| SDXL | before | 4.20 s | 1.00x |" in page.lines([run])[-1]


@pytest.mark.parametrize("fixes", [(), ("vae-dtype",)])
@pytest.mark.parametrize("name", list(MODELS))
def test_networks_in_the_dtypes_of_the_true_ones_work_together(
    name: str, fixes: tuple[FixName, ...], frame: Frame
) -> None:
    """What a rehearsal in fp32 cannot show, and what would cost a model all of its rows."""
    model = MODELS[name]
    if fixes and model.vae_dtype is torch.bfloat16:
        pytest.skip("its VAE is in bfloat16 already")
    pipeline = model.build()
    pipeline.set_progress_bar_config(disable=True)
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            module.to(model.dtype_of(part))
    arguments = call_arguments(pipeline, model.workload()) | model.further()
    with applied(pipeline, [Choice(name=fix) for fix in fixes], probe=False):
        assert len(pipeline(**arguments)[0])


def test_no_tensor_of_a_filled_module_stays_without_values() -> None:
    """Weights, positions, and tables that are no buffers."""
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2)
        module.register_buffer("positions", torch.arange(3))
        module.frequencies = torch.ones(3, dtype=torch.complex64)
    module = filled(module, torch.device("cpu"))
    assert module.positions.tolist() == [0, 1, 2]
    assert module.frequencies.tolist() == [1, 1, 1]
    assert bool(module.weight.any())


# ---- the pack


def test_what_the_machine_has_is_not_packed() -> None:
    names = {line.partition("==")[0] for line in pack_for_offline.to_pack()}
    assert {"diffusers", "msgspec", "pytest"} <= names
    assert not {"torch", "transformers", "accelerate", "numpy", "halftime"} & names


def test_an_archive_that_is_too_large_is_refused_with_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "large.whl").write_bytes(os.urandom(4096))
    assert pack_for_offline.archive(folder, tmp_path / "a.tar") < pack_for_offline.MOST_BYTES
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert f"{pack_for_offline.NAME}/install.sh" in tar.getnames()
    monkeypatch.setattr(pack_for_offline, "MOST_BYTES", 1024)
    with pytest.raises(SystemExit, match=r"large\.whl 0\.0"):
        pack_for_offline.archive(folder, tmp_path / "b.tar")
