"""The worker in this process: its first answer, then one for each order."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from halftime.records import Workload
from halftime.verbs.gate import worker
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder, WorkerTask, serve
from halftime.verbs.verify.pictures import read_folder

MODEL = "tiny_pipelines.images:sdxl"


def answers(task: WorkerTask, *orders: WorkerOrder) -> list[WorkerAnswer]:
    lines = "".join(f"{msgspec.json.encode(order).decode()}\n" for order in orders)
    output = io.StringIO()
    serve(task, io.StringIO(lines), output)
    return [msgspec.json.decode(x, type=WorkerAnswer) for x in output.getvalue().splitlines()]


def test_from_the_first_call_to_pictures(tmp_path: Path) -> None:
    task = WorkerTask(model=MODEL, workload=Workload(steps=2, width=32, height=32))
    first, call, drawn, refused = answers(
        task,
        WorkerOrder(order="call"),
        WorkerOrder(order="draw", folder=str(tmp_path / "pictures"), pictures=2),
        WorkerOrder(order="draw", folder="/dev/null/pictures", pictures=1),
    )
    facts = first.facts
    assert facts["pipeline"] == "StableDiffusionXLPipeline"
    assert facts["unet.dtype"] == "float32"
    assert facts["scheduler"].endswith("Scheduler")
    assert facts["packages.pytest"] == pytest.__version__
    assert "versions.torch" in facts
    assert "versions.halftime" not in facts  # the instrument is no cause
    assert {"denoise", "vae_decode"} <= set(call.stages)
    assert sum(call.stages.values()) == pytest.approx(call.seconds)
    assert drawn.error == ""
    assert len(read_folder(tmp_path / "pictures").pictures) == 2
    assert "/dev/null" in refused.error


def test_a_recipe_is_applied(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fixes]]\nname = "schedule-table"\n')
    workload = Workload(steps=2, width=32, height=32)
    (fixed,) = answers(WorkerTask(model=MODEL, workload=workload, recipe=str(plan)))
    assert fixed.facts["fixes"] == "schedule-table"


def test_what_is_refused_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    task = msgspec.json.encode(WorkerTask(model="nowhére", workload=Workload()))
    said: list[WorkerAnswer] = []

    def opened(*_: object, encoding: str, **__: object) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(task), encoding)

    latin = io.TextIOWrapper(io.BytesIO(task), "latin-1")  # what some systems read by themselves
    monkeypatch.setattr("sys.stdin", latin)
    monkeypatch.setattr(worker.os, "dup", lambda _: 1)
    monkeypatch.setattr(worker.os, "dup2", lambda *_: None)
    monkeypatch.setattr(worker.os, "fdopen", opened)
    monkeypatch.setattr(worker.os, "_exit", lambda _: None)
    monkeypatch.setattr(worker, "_say", lambda _, answer: said.append(answer))
    worker.main()
    (answer,) = said
    assert answer.error.startswith("'nowhére' is not a model: ")
