"""The GitHub Action: its shell steps, run from action.yml in a real clone of a real origin, with a
stand-in for the gate that takes the options as `halftime gate` does."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gate_machine import git
from halftime.cli.gate import command
from scripts.run_action import ACTION, ActionRun

ROOT = Path(__file__).parent.parent
STAND_IN = """#!{python}
import json, os, pathlib, subprocess, sys
words = sys.argv[1:]
if words[0] == "-c":
    sys.exit(subprocess.run([{python!r}, *words]).returncode)
assert words[:3] == ["-m", "halftime", "gate"], words
pathlib.Path("asked.json").write_text(json.dumps(words[3:]))
code = int(os.environ["STAND_IN_CODE"])
file = lambda option: pathlib.Path(words[words.index(option) + 1])
if code == 2:
    sys.exit(2)
verdict = {{0: "pass", 1: "slower", 3: "undecided"}}[code]
file("--json").write_text(json.dumps({{"verdict": verdict}}))
file("--markdown").write_text(f"## it is {{verdict}}\\n")
if "--history" in words:
    with file("--history").open("a") as lines:
        lines.write(json.dumps({{"verdict": verdict}}) + "\\n")
subprocess.run(["bash", "-ec", os.environ.get("STAND_IN_MEANWHILE", "true")], check=True)
print("::notice title=halftime gate::" + verdict)
sys.exit(code)
"""


@dataclass
class Clone:
    """A clone with three commits of an origin of its own, and the last run in it."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    run: ActionRun | None = None

    def act(self, code: int = 0, *, base_ref: str = "", meanwhile: str = "true", **inputs) -> int:
        self.monkeypatch.setenv("STAND_IN_CODE", str(code))
        self.monkeypatch.setenv("STAND_IN_MEANWHILE", meanwhile)
        names = {name.replace("_", "-"): value for name, value in inputs.items()}
        python = str(self.folder.parent / "python")
        self.run = ActionRun({"python": python, **names}, {"base_ref": base_ref}, self.folder)
        return self.run.run()

    def asked(self) -> list[str]:
        return json.loads((self.folder / "asked.json").read_text())

    def asked_base(self) -> str:
        return self.asked()[self.asked().index("--against") + 1]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    origin, folder = tmp_path / "origin", tmp_path / "clone"
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.c")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "-q", "--bare", "-b", "main", str(origin))
    git("clone", "-q", f"file://{origin}", str(folder))
    monkeypatch.chdir(folder)
    git("checkout", "-q", "-b", "main")
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", f"commit {number}")
    git("push", "-q", "origin", "main")
    (tmp_path / "python").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    return Clone(folder, monkeypatch)


def test_a_pull_request_is_gated_against_its_base(clone: Clone) -> None:
    git("checkout", "-q", "-b", "change", "HEAD~2")
    assert clone.act(base_ref="main") == 0
    assert clone.asked_base() == git("rev-parse", "main")
    assert git("rev-parse", "--is-shallow-repository") == "false"


def test_a_push_is_gated_against_the_last_tag_or_the_commit_before(clone: Clone) -> None:
    assert clone.act() == 0
    assert clone.asked_base() == git("rev-parse", "HEAD~1")
    git("tag", "v1", "HEAD~2")
    git("tag", "v2", "HEAD")  # a release is gated against the one before, and not against itself
    assert clone.act() == 0
    assert clone.asked_base() == "v1"
    assert clone.act(against="v2") == 0
    assert clone.asked_base() == "v2"


def test_a_shallow_clone_is_deepened(clone: Clone, tmp_path: Path) -> None:
    git("clone", "-q", "--depth", "1", f"file://{tmp_path / 'origin'}", str(tmp_path / "shallow"))
    head = git("rev-parse", "HEAD~1")
    clone.folder = tmp_path / "shallow"
    assert clone.act() == 0
    assert clone.asked_base() == head
    assert clone.act(base_ref="main") == 0
    assert clone.act(**HISTORY) == 0
    assert clone.act(1, **HISTORY) == 1
    assert lines_of("halftime-history") == ["pass", "slower"]


def test_the_first_commit_has_nothing_to_be_compared_with(
    clone: Clone, capfd: pytest.CaptureFixture[str]
) -> None:
    git("checkout", "-q", "HEAD~2")
    assert clone.act(history="h.jsonl", history_branch="history") == 0
    assert "::notice title=halftime gate::there is no version before" in capfd.readouterr().out
    assert not (clone.folder / "asked.json").exists()


@pytest.mark.parametrize(
    ("code", "undecided", "expected", "verdict"),
    [
        (0, "fail", 0, "pass"),
        (1, "fail", 1, "slower"),
        (1, "pass", 1, "slower"),
        (3, "fail", 3, "undecided"),
        (3, "pass", 0, "undecided"),
        (2, "pass", 2, ""),
    ],
)
def test_the_code_and_the_summary_are_the_gates(
    clone: Clone, code: int, undecided: str, expected: int, verdict: str
) -> None:
    (clone.folder / "halftime-gate").mkdir()
    (clone.folder / "halftime-gate" / "gate.json").write_text('{"verdict": "of before"}')
    assert clone.act(code, undecided=undecided) == expected
    assert clone.run.outputs["gate"] == {"verdict": verdict, "code": str(code)}
    assert clone.run.summary == (f"## it is {verdict}\n" if verdict else "")


def test_options_are_words_and_halftime_knows_them(clone: Clone) -> None:
    options = "--exact --pictures 0 --allow 'compiled graphs' --prompt '$(touch x); a \"cat\"'"
    assert clone.act(model="mine:make", options=options, history="h.jsonl") == 0
    words = clone.asked()
    assert words[0] == "mine:make"
    assert words[3 : 3 + len(shlex.split(options))] == shlex.split(options)
    values = command.make_context("gate", words).params
    assert values["allowed"] == ("compiled graphs",)
    assert values["history_file"] == "h.jsonl"
    assert values["github"] is True
    assert not (clone.folder / "x").exists()


# ---- a history in a branch


def lines_of(branch: str) -> list[str]:
    git("fetch", "-q", "origin", branch)
    text = git("show", "FETCH_HEAD:gate.jsonl")
    return [json.loads(line)["verdict"] for line in text.splitlines()]


HISTORY = {"history": "gate.jsonl", "history_branch": "halftime-history"}


def test_the_branch_is_made_and_grows_also_by_failures(clone: Clone) -> None:
    before = git("status", "--porcelain")
    assert [clone.act(code, **HISTORY) for code in (0, 1)] == [0, 1]
    assert lines_of("halftime-history") == ["pass", "slower"]
    assert git("rev-list", "--count", "FETCH_HEAD") == "3"
    assert git("rev-parse", "--is-shallow-repository") == "false"
    assert git("rev-parse", "--abbrev-ref", "HEAD") == "main"
    git("clean", "-fdq")
    assert git("status", "--porcelain") == before


def test_two_runs_at_once_keep_both_lines(clone: Clone, tmp_path: Path) -> None:
    assert clone.act(**HISTORY) == 0
    origin, other = tmp_path / "origin", tmp_path / "other"
    meanwhile = (
        f"git clone -q -b halftime-history file://{origin} {other} && cd {other} && "
        """echo '{"verdict": "worse"}' >> gate.jsonl && git commit -qam other && git push -q"""
    )
    assert clone.act(1, meanwhile=meanwhile, **HISTORY) == 1
    assert sorted(lines_of("halftime-history")) == ["pass", "slower", "worse"]


def test_a_push_that_is_refused_warns_and_does_not_fail(
    clone: Clone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = tmp_path / "origin" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    assert clone.act(**HISTORY) == 0
    assert "::warning title=halftime gate::the history could not be" in capfd.readouterr().out


# ---- what runs it


def test_an_input_or_an_expression_that_it_does_not_know(clone: Clone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="modle: the action has model, "):
        clone.act(modle="x")
    for step in ({"if": "failure()"}, {"env": {"A": "${{ secrets.B }}"}}, {"shell": "pwsh"}):
        file = tmp_path / "action.yml"
        steps = [{"shell": "bash", "run": "true", **step}]
        file.write_text(yaml.safe_dump({"inputs": {}, "runs": {"steps": steps}}))
        with pytest.raises(ValueError, match="not known here"):
            ActionRun({}, folder=tmp_path).run(file)


def test_a_step_that_fails_is_the_last(tmp_path: Path) -> None:
    file = tmp_path / "action.yml"
    steps = [{"shell": "bash", "run": f"{run} >> log"} for run in ("echo 1", "false | cat", "ls")]
    file.write_text(yaml.safe_dump({"inputs": {}, "runs": {"steps": steps}}))
    assert ActionRun({}, folder=tmp_path).run(file) == 1
    assert (tmp_path / "log").read_text() == "1\n"


def test_nothing_of_the_event_is_pasted_into_a_script() -> None:
    """A branch's name could be a command; it comes by the environment."""
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_workflow_and_make_gate_the_same(tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (used,) = (s for s in workflow["jobs"]["test"]["steps"] if s.get("uses") == "./")
    made = subprocess.run(
        ["make", "-n", "-o", ".venv/test.stamp", "gate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f'options="{used["with"]["options"]}"' in made
    assert set(used["with"]) <= set(yaml.safe_load(ACTION.read_text())["inputs"])
    values = command.make_context(
        "gate", ["--against", "HEAD", *shlex.split(used["with"]["options"])]
    ).params
    assert values["exact"] is True
    assert "make gate" in (ROOT / ".ci" / "run").read_text()
