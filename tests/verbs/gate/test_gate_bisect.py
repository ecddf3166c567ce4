"""Bisecting: the noisy search on simulated answers, its state file, and what cannot be asked."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from halftime.base.errors import BadInput, HalftimeError
from halftime.records import Workload
from halftime.records.gate import Gate, GateSide, GateWord
from halftime.verbs.gate.bisect import Bisect, bisect, listed_versions, resumed, versions_between
from halftime.verbs.gate.process import SideFailed
from halftime.verbs.gate.search import SURE, VersionSearch
from halftime.verbs.gate.sides import Side

COUNT = 32
VERSIONS = tuple(f"demo=={number}" for number in range(COUNT + 1))


def gate_of(word: GateWord) -> Gate:
    return Gate(
        verdict=word,
        reasons=(),
        base=GateSide(label="base", kind="requirement"),
        candidate=GateSide(label="now", kind="requirement"),
        margin=0.03,
        alpha=0.01,
        budget_seconds=1,
        spent_seconds=1,
        workload=Workload(),
    )


@contextmanager
def prepare(version: str) -> Iterator[Side]:
    yield Side(version)


class Oracle:
    """Says whether a version is bad; wrong with a probability, silent about some."""

    def __init__(self, first: int, wrong: float = 0.0, seed: int = 0) -> None:
        self._first, self._wrong, self._rng = first, wrong, random.Random(seed)
        self.runs = 0
        self.broken: set[int] = set()
        self.undecided: set[int] = set()

    def __call__(self, base: Side, version: Side) -> Gate:
        self.runs += 1
        number = VERSIONS.index(version.label)
        if number in self.broken:
            raise HalftimeError("it does not start")
        if number in self.undecided:
            return gate_of("undecided")
        bad = (number >= self._first) != (self._rng.random() < self._wrong)
        return gate_of("slower" if bad else "pass")


def run(oracle: Oracle, path: Path, error: float = 0.0) -> Gate:
    state = resumed(path, Bisect(question="q", versions=VERSIONS))
    return bisect(state, path, oracle, error, prepare=prepare)


@pytest.mark.parametrize(("error", "most"), [(0.0, 6.5), (0.02, 9), (0.1, 16)])
def test_the_planted_version_among_32(error: float, most: float) -> None:
    """At least 19 of 20, whatever the noise; and as few questions as it allows."""
    rng = random.Random(1)
    hits, questions = 0, []
    for _ in range(400):
        first, search, asked = rng.randint(1, COUNT), VersionSearch(COUNT, error), 0
        while search.likeliest().probability < SURE:
            version = search.ask()
            assert version is not None
            search.learn(version, bad=(version >= first) != (rng.random() < error))
            asked += 1
        hits += search.likeliest()[:2] == (first - 1, first)
        questions.append(asked)
    assert hits >= 0.95 * 400
    assert sum(questions) / 400 <= most


def test_the_last_one_is_asked_first_and_none_may_be_bad(tmp_path: Path) -> None:
    oracle = Oracle(first=COUNT + 1)
    record = run(oracle, tmp_path / "state.json")
    assert oracle.runs == 1
    assert record.verdict == "pass"
    assert record.reasons[0].startswith("no version is bad")


@pytest.mark.parametrize("first", [1, 7, COUNT])
def test_a_search_without_noise(tmp_path: Path, first: int) -> None:
    oracle = Oracle(first)
    record = run(oracle, tmp_path / "state.json")
    assert record.verdict == "slower"
    assert record.reasons[0].startswith(f"first bad: {VERSIONS[first]} (")
    assert oracle.runs <= 7


def test_it_goes_on_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    whole = Oracle(first=11)
    record = run(whole, path)
    state = msgspec.json.decode(path.read_bytes(), type=Bisect)
    msgspec.structs.replace(state, answers=state.answers[:3]).save(path)
    again = Oracle(first=11)
    assert run(again, path).reasons == record.reasons
    assert again.runs == whole.runs - 3
    with pytest.raises(BadInput, match="another search"):
        resumed(path, Bisect(question="another", versions=VERSIONS))


def test_versions_without_an_answer_leave_a_range(tmp_path: Path) -> None:
    oracle = Oracle(first=11)
    oracle.broken, oracle.undecided = {10}, {11}
    record = run(oracle, tmp_path / "state.json")
    assert record.verdict == "slower"
    names = "; ".join(VERSIONS[10:13])
    assert f"first bad among 3, which could not be told apart: {names} (" in record.reasons[0]
    assert any("demo==10 was passed over: it does not start" in note for note in record.notes)


def test_none_that_can_run(tmp_path: Path) -> None:
    oracle = Oracle(first=1)
    oracle.broken = set(range(COUNT + 1))
    with pytest.raises(HalftimeError, match="no version after the base could run"):
        run(oracle, tmp_path / "state.json")


def test_a_base_that_cannot_run_ends_the_search_at_once(tmp_path: Path) -> None:
    runs = []

    def judge(base: Side, version: Side) -> Gate:
        runs.append(version)
        raise SideFailed(f"{base.label}: it does not start", base.label)

    path = tmp_path / "state.json"
    fresh = Bisect(question="q", versions=VERSIONS)
    with pytest.raises(SideFailed, match="demo==0: it does not start"):
        bisect(fresh, path, judge, 0.0, prepare=prepare)
    assert len(runs) == 1
    assert not path.exists()  # no answer about any version


def test_what_pip_lists() -> None:
    text = "demo (1.10)\nAvailable versions: 1.10, 1.9, odd!, 1.0\n  INSTALLED: 1.9\n"
    assert [str(version) for version in sorted(listed_versions(text))] == ["1.0", "1.9", "1.10"]


def git(*words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commits_lead_from_an_ancestor_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", f"commit {number}")
    hashes = [git("rev-parse", name) for name in ("HEAD~2", "HEAD~1", "HEAD")]
    assert list(versions_between("HEAD~2")) == hashes
    with pytest.raises(BadInput, match="no version to try"):
        versions_between("HEAD")
    with pytest.raises(BadInput, match="neither a git revision nor a range"):
        versions_between("nowhere")
    git("checkout", "-q", "--detach", "HEAD~1")
    with pytest.raises(BadInput, match="main is not an ancestor of HEAD"):
        versions_between("main")
