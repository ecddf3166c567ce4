"""`halftime gate`: one run for real against a revision, and the codes and files of all verdicts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gate_machine import git
from halftime.base.lines import read_lines
from halftime.base.store import read_json, read_report
from halftime.cli import _run
from halftime.cli.gate import EXIT_CODES
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.records.gate import Acceptance, Gate, GateSide, PastGate
from halftime.verbs.gate.counting import Counts, _waits
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder

TINY = ("--steps", "2", "--size", "32")
MINE = """
from tiny_pipelines import PIPELINES

def make():
    pipeline = PIPELINES["sdxl"].build()
    step = pipeline.scheduler.step
    def watched(*arguments, **named):
        result = step(*arguments, **named)
        {line}
        return result
    pipeline.scheduler.step = watched
    return pipeline
"""


def test_a_revision_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two processes: the commit before, and the working tree with one more wait in each step."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    Path("mine.py").write_text(MINE.format(line="pass"))
    git("add", ".")
    git("commit", "-q", "-m", "first")
    Path("mine.py").write_text(MINE.format(line="float(result[0].sum())"))
    words = ["gate", "mine:make", "--against", "main", "--exact", "--pictures", "5", *TINY]
    code = _run([*words, "--json", "gate.json", "--junit", "gate.xml", "--quiet"], debug=False)
    assert code == 1, capfd.readouterr().err
    record = read_json("gate.json", Gate)
    assert (record.verdict, record.speed) == ("worse", "not measured")
    (reason,) = (text for text in record.reasons if text.startswith("waits in the loop"))
    assert "mine.py:9: float(result[0].sum())" in reason
    assert record.pictures is not None
    assert record.pictures.verdict == "equivalent"
    assert record.base.label.startswith("main (")
    assert record.candidate.label.endswith("and uncommitted changes)")
    assert record.differences == ()
    (suite,) = ElementTree.parse("gate.xml").getroot()
    assert int(suite.get("failures", "0")) >= 1
    assert _run(["show", "gate.json"], debug=False) == 0
    assert "waits in the loop" in capfd.readouterr().out


def test_bisect_finds_the_commit_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Four commits of a real repository, counted for real, in this process: waits decide, and no
    clock."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    for line in (
        "pass",
        "pass  # still",
        "float(result[0].sum())",
        "float(result[0].sum())  # too",
    ):
        Path("mine.py").write_text(MINE.format(line=line))
        git("add", ".")
        git("commit", "-q", "-m", f"step: {line}")
    monkeypatch.setattr("halftime.verbs.gate.run.SideProcess", InThisProcess)
    monkeypatch.setattr(InThisProcess, "started", 0)
    words = ["gate", "mine:make", "--against", "HEAD~3", "--bisect", "--exact", "--pictures", "0"]
    assert _run([*words, *TINY, "--json", "gate.json"], debug=False) == 1
    captured = capfd.readouterr()
    assert "step: float(result[0].sum())" in captured.out
    assert InThisProcess.started == 6  # two of each of three runs: the last, then by halves
    record = read_json("gate.json", Gate)
    assert record.reasons[0].startswith("first bad: ")
    assert "mine.py:9: float(result[0].sum())" in "".join(record.reasons)
    again = _run([*words, *TINY], debug=False)  # from its file, without any process
    assert (again, InThisProcess.started) == (1, 6)


class InThisProcess:
    """A side's worker, here: what it counts is real, and it need not import torch anew."""

    started = 0

    def __init__(self, side: Side, model: str, workload: Workload) -> None:
        InThisProcess.started += 1
        names: dict[str, object] = {}
        exec(compile((side.folder / "mine.py").read_text(), "mine.py", "exec"), names)
        self._loaded = LoadedPipeline(names["make"](), model, ())  # type: ignore[operator]
        self._workload = workload

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        return WorkerAnswer(seconds=1.0)

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        counts = Counts()
        _waits(self._loaded, self._workload, counts)
        return WorkerAnswer(counts=counts.values, details=counts.details)

    def end(self) -> None:
        pass


def test_the_lines_of_git_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history in a branch: fetched, added to, and pushed."""
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    (block,) = (b for b in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "../history" in b)
    first, gating, *last = block.splitlines()
    assert "--history ../history/gate.jsonl" in gating
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.c")
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git("init", "-q", "--bare", "-b", "main", str(origin))
    git("clone", "-q", str(origin), str(clone))
    monkeypatch.chdir(clone)
    git("checkout", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    git("push", "-q", "origin", "main", "main:halftime-history")
    script = "\n".join((first, "echo '{}' >> ../history/gate.jsonl", *last))
    for number in (1, 2):
        subprocess.run(["bash", "-ec", script], check=True, capture_output=True)
        assert (
            git("-C", str(origin), "show", "halftime-history:gate.jsonl").split() == ["{}"] * number
        )
        git("worktree", "remove", "../history")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch):
    """The command with a gate that has its verdict already."""

    def judge(verdict: str, *words: str) -> int:
        def gate(model, base, candidate, workload, settings, acceptances, **_) -> Gate:
            return Gate(
                verdict=verdict,
                reasons=("because",),
                would_decide="more",
                base=GateSide(label=base.label, kind=base.kind),
                candidate=GateSide(label=candidate.label, kind=candidate.kind),
                margin=settings.margin,
                alpha=settings.alpha,
                budget_seconds=settings.budget,
                spent_seconds=1.0,
                workload=workload,
                notes=tuple(line.what for line in acceptances),
            )

        monkeypatch.setattr("halftime.verbs.gate.run.gate", gate)
        return _run(["gate", "--against", "baseline", *words], debug=False)

    return judge


@pytest.mark.parametrize(("verdict", "code"), EXIT_CODES.items())
def test_codes_of_the_page(judged, verdict: str, code: int) -> None:
    assert judged(verdict, "--quiet") == code
    codes = {"pass": 0, "faster": 0, "accepted": 0, "slower": 1, "worse": 1, "undecided": 3}
    assert codes[verdict] == code


def test_options_become_settings(judged, tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    words = ("--slower", "5%", "--alpha", "0.02", "--budget", "90s", "--steps", "3")
    assert judged("pass", *words, "--json", str(file), "--quiet") == 0
    record = json.loads(file.read_text())
    assert (record["margin"], record["alpha"], record["budget_seconds"]) == (0.05, 0.02, 90.0)
    assert record["workload"]["steps"] == 3


def test_each_run_adds_a_line_to_the_history(
    judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--history", "history.jsonl", "--html", "gate.html")
    assert [judged(verdict, *words) for verdict in ("pass", "slower")] == [0, 1]
    assert [line.verdict for line in read_lines("history.jsonl", PastGate).records] == [
        "pass",
        "slower",
    ]
    captured = capfd.readouterr()
    assert "2 verdicts since" in captured.out
    assert "wrote history.jsonl" in captured.err
    assert [line.verdict for line in read_report("gate.html", Gate).history] == ["pass", "slower"]


def test_accepting_writes_a_line_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["gate", "accept", "speed=8%", "waits=2", "--reason", "a second encoder"]
    assert _run(words, debug=False) == 0
    assert "speed, at most 8.0 %: a second encoder" in capfd.readouterr().out
    lines = read_lines("halftime-accepted.jsonl", Acceptance)
    assert [line.what for line in lines.records] == ["speed", "waits in the loop"]
    for words, says in (
        (["speed=8%"], "Missing option '--reason'"),
        (["--reason", "x"], "say what is accepted"),
        (["speed=8%", "--from", "gate.json", "--reason", "x"], "one of both"),
        (["speed=8%", "fast=1%", "--reason", "x"], "nothing that a gate looks at"),
        (["--from", "none.json", "--reason", "x"], "cannot read none.json"),
    ):
        assert _run(["gate", "accept", *words], debug=False) == 2
        assert says in capfd.readouterr().err
    assert len(read_lines("halftime-accepted.jsonl", Acceptance).records) == 2


def test_what_is_accepted_reaches_the_gate(
    judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["gate", "accept", "speed=8%", "--reason", "why", "--against", "baseline"]
    assert _run(words, debug=False) == 0
    assert judged("pass", "--quiet", "--json", "gate.json") == 0
    assert read_json("gate.json", Gate).notes == ("speed",)


def test_annotations_alone_on_standard_output(judged, capfd: pytest.CaptureFixture[str]) -> None:
    assert judged("worse", "--github") == 1
    assert capfd.readouterr().out == "::error title=halftime gate::because\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--against", "nowhere"], "names nothing that can run here"),
        (["--against", "baseline", "--slower", "3"], "'3' is not a share. Write it as 3%"),
        (["--against", "baseline", "--pictures", "2"], "0 for none, or 5 and more"),
        (["--against", "baseline", "--recipe", "none.toml"], "there is no file none.toml"),
        (["nowhere", "--against", "baseline"], "'nowhere' is not a model"),
        (["--against", "session.json"], "a stored session is one process"),
        (["--against", "baseline", "--history", "-"], "lines cannot be added to it"),
        (["--against", "baseline", "--accepted", "none.jsonl"], "there is no such file"),
        (["--against", "main", "--bisect", "--history", "h.jsonl"], "no line of a --history"),
        ([], "Missing option '--against'"),
    ],
)
def test_refused_before_anything_starts(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.chdir(tmp_path)
    Path("session.json").write_text('{"schema": 3}')
    monkeypatch.setattr("halftime.verbs.gate.run.SideProcess", start)
    assert _run(["gate", *words], debug=False) == 2
    assert says in capfd.readouterr().err


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = Gate(
        verdict="pass",
        reasons=(),
        base=GateSide(label="a", kind="baseline"),
        candidate=GateSide(label="b", kind="here"),
        margin=0.03,
        alpha=0.01,
        budget_seconds=1.0,
        spent_seconds=1.0,
        workload=Workload(),
    )
    record.save(tmp_path / "g.json")
    assert read_json(tmp_path / "g.json", Gate) == record
