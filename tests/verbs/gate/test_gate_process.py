"""A worker as its parent sees it: answers, errors, a silent one, a dead one. The worker here is a
stand-in of a few lines, on a search path of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from halftime.base.errors import HalftimeError
from halftime.records import Workload
from halftime.verbs.gate.process import NotInTime, SideFailed, SideProcess
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerOrder


@pytest.fixture
def started(tmp_path: Path):
    """Starts a process of a side whose worker is `program`."""
    package = tmp_path / "halftime" / "verbs" / "gate"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()  # or the installed halftime would come first
    processes = []

    def start(program: str) -> SideProcess:
        (package / "worker.py").write_text(program)
        side = Side("before", folder=tmp_path, paths=(str(tmp_path),))
        processes.append(SideProcess(side, None, Workload()))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


ANSWERS = """
import json, sys
task = json.loads(sys.stdin.readline())
print(json.dumps({"seconds": task["workload"]["steps"]}), flush=True)
for line in sys.stdin:
    order = json.loads(line)["order"]
    answer = {"error": "no such picture"} if order == "draw" else {"counts": {"waits": 3}}
    print(json.dumps(answer), flush=True)
"""


def test_it_is_asked_and_answers(started) -> None:
    process = started(ANSWERS)
    assert process.ready().seconds == 30
    assert process.ask(WorkerOrder(order="count")).counts == {"waits": 3}
    with pytest.raises(HalftimeError, match=r"^before: no such picture"):
        process.ask(WorkerOrder(order="draw"))
    assert process.ask(WorkerOrder(order="count")).counts == {"waits": 3}


def test_one_that_dies_is_named_with_its_last_words(started) -> None:
    process = started("import nothing_of_that_name")
    with pytest.raises(HalftimeError, match=r"a process of before .* ended: ModuleNotFoundError"):
        process.ready()


def test_one_that_was_killed_is_said_to_be(started) -> None:
    """Its last line is a warning of somebody else's, and no reason."""
    process = started(
        "import os, signal, sys\n"
        "print('somebody warns', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(SideFailed, match=r"killed by SIGKILL.*no memory.*somebody warns") as caught:
        process.ready()
    assert caught.value.label == "before"


def test_one_of_another_halftime_is_named(started) -> None:
    process = started("print('{\"beats\": 3}')")
    with pytest.raises(HalftimeError, match=r"before answers as another halftime does \(.*beats"):
        process.ready()


def test_one_that_is_silent_is_not_waited_for_beyond_the_budget(started) -> None:
    process = started("import sys; sys.stdin.read()")
    with pytest.raises(NotInTime, match="a process of before was not ready"):
        process.ready(0.0)
