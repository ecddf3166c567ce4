"""`gate --bisect`: the first bad commit, or release, between a good base and now."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
from packaging.version import InvalidVersion, Version

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress, silent
from halftime.base.store import decoded, read_bytes, write_json
from halftime.base.version import git_output
from halftime.records import Record
from halftime.records.gate import Gate
from halftime.verbs.gate.process import SideFailed
from halftime.verbs.gate.search import SURE, Suspects, VersionSearch
from halftime.verbs.gate.sides import Side, requirement_of, shallow, side_of

BAD, GOOD = ("slower", "worse"), ("pass", "faster")
MOST_UNDECIDED = 2  # so often a version may stay undecided before it counts as one without answer

Judge = Callable[[Side, Side], Gate]  # base, version
Prepare = Callable[[str], AbstractContextManager[Side]]


class BisectAnswer(Record, frozen=True, kw_only=True):
    """One run: the version that was tried, and the gate, or why it could not run."""

    version: str
    gate: Gate | None = None
    failure: str = ""


# Schema history
# 1  2026-11  first
class Bisect(Record, frozen=True, kw_only=True):
    """A search that can be continued: base and versions in order, and every answer so far."""

    schema: int = 1
    question: str  # model, workload and settings: answers to another one do not count
    versions: tuple[str, ...]  # what `--against` would take; the first is the base
    answers: tuple[BisectAnswer, ...] = ()


def versions_between(against: str) -> tuple[str, ...]:
    """The base and every version after it, oldest first: commits up to HEAD, or releases. Raises
    BadInput where there is nothing between."""
    versions = releases(against) if requirement_of(against) else commits(against)
    if len(versions) < 2:
        raise BadInput(
            f"--bisect: between {against} and now there is no version to try; the base has to be "
            "older than what is bad."
        )
    return versions


def commits(against: str) -> tuple[str, ...]:
    """`against` and every commit after it to HEAD, along the first parents: a merge is one."""
    base = git_output("rev-parse", "--verify", "--quiet", f"{against}^{{commit}}")
    if not base:
        raise BadInput(
            f"--bisect --against {against}: neither a git revision nor a range of releases, "
            "as 'diffusers>=0.38,<0.42'."
        )
    if git_output("merge-base", base, "HEAD") != base:
        raise BadInput(
            f"--bisect: {against} is not an ancestor of HEAD, so no commits lead here{shallow()}."
        )
    listed = git_output("rev-list", "--reverse", "--first-parent", f"{base}..HEAD")
    return (base, *listed.split())


def releases(against: str) -> tuple[str, ...]:
    """Every release in a range of a package, as pip's index has them."""
    requirement = requirement_of(against)
    if requirement is None:
        raise BadInput(f"{against} is no requirement with a range, as 'diffusers>=0.38,<0.42'.")
    command = [sys.executable, "-m", "pip", "index", "versions", requirement.name]
    completed = subprocess.run(
        [*command, "--disable-pip-version-check"], capture_output=True, text=True, check=False
    )
    versions = listed_versions(completed.stdout)
    if not versions:
        raise HalftimeError(f"pip's index names no release of {requirement.name}.")
    return tuple(
        f"{requirement.name}=={version}"
        for version in sorted(versions)
        if requirement.specifier.contains(version)
    )


def listed_versions(text: str) -> list[Version]:
    """The versions in what `pip index versions` printed."""
    rows = [row for row in text.splitlines() if row.startswith("Available versions:")]
    versions = []
    for word in rows[0].partition(":")[2].split(",") if rows else []:
        try:
            versions.append(Version(word.strip()))
        except InvalidVersion:
            continue
    return versions


def resumed(path: Path, fresh: Bisect) -> Bisect:
    """What the file holds of the same search, or a fresh one where there is no file. Raises
    BadInput where it holds another search."""
    if not path.exists():
        return fresh
    stored = decoded(path, read_bytes(path), Bisect)
    if (stored.question, stored.versions) != (fresh.question, fresh.versions):
        raise BadInput(
            f"{path} holds the answers of another search (another model, base, HEAD or other "
            "settings). Delete it to begin anew, or name another file by --bisect-state."
        )
    return stored


def bisect(
    state: Bisect,
    path: Path,
    judge: Judge,
    error: float,
    *,
    prepare: Prepare = side_of,
    progress: Progress = silent,
) -> Gate:
    """Run gates until one version is likely enough to be the first bad one; each answer is written
    to `path` at once. Gives the gate that speaks of it, its reasons preceded by the result."""
    search = VersionSearch(len(state.versions) - 1, error)
    for answer in state.answers:
        _learn(search, state, answer)
    while True:
        dumb = without_answer(state)
        suspects = search.likeliest(dumb)
        version = None if suspects.probability >= SURE else search.ask(dumb)
        if version is None:
            return _concluded(state, suspects)
        name = state.versions[version]
        progress(f"run {len(state.answers) + 1}: {_short(name)}", 0, 1)
        answer = _tried(state.versions[0], name, judge, prepare)
        state = msgspec.structs.replace(state, answers=(*state.answers, answer))
        write_json(path, state)
        _learn(search, state, answer)


def _tried(base: str, version: str, judge: Judge, prepare: Prepare) -> BisectAnswer:
    with prepare(base) as before:
        try:
            with prepare(version) as now:
                return BisectAnswer(version=version, gate=judge(before, now))
        except HalftimeError as error:
            if isinstance(error, SideFailed) and error.label == before.label:
                raise  # without the base no version can be judged
            return BisectAnswer(version=version, failure=str(error))


def _learn(search: VersionSearch, state: Bisect, answer: BisectAnswer) -> None:
    word = answer.gate.verdict if answer.gate else ""
    if word in (*BAD, *GOOD):
        search.learn(state.versions.index(answer.version), bad=word in BAD)


def without_answer(state: Bisect) -> frozenset[int]:
    """Versions that cannot run, or that stay undecided."""
    numbers = set()
    for number, version in enumerate(state.versions):
        answers = [answer for answer in state.answers if answer.version == version]
        undecided = sum(a.gate is not None and a.gate.verdict == "undecided" for a in answers)
        if undecided >= MOST_UNDECIDED or any(answer.gate is None for answer in answers):
            numbers.add(number)
    return frozenset(numbers)


def _concluded(state: Bisect, suspects: Suspects) -> Gate:
    last = len(state.versions) - 1
    gates = [answer for answer in state.answers if answer.gate is not None]
    if not gates:
        failure = state.answers[-1].failure if state.answers else "nothing was tried"
        raise HalftimeError(f"--bisect: no version after the base could run. The last: {failure}")
    none_bad = suspects.bad > last and suspects.good > 0
    sure = suspects.probability >= SURE
    number = min(suspects.good if none_bad else suspects.bad, last)
    subject = [answer for answer in gates if answer.version == state.versions[number]]
    record = (subject or gates)[-1].gate
    assert record is not None
    verdict = record.verdict if sure else "undecided"
    return msgspec.structs.replace(
        record,
        verdict=verdict,
        would_decide="" if sure else record.would_decide or "a larger --budget for a run",
        reasons=(_sentence(state, suspects, none_bad=none_bad), *record.reasons),
        notes=(*record.notes, *_failures(state)),
    )


def _sentence(state: Bisect, suspects: Suspects, *, none_bad: bool) -> str:
    runs = f"{len(state.answers)} runs, {len(state.versions) - 1} versions"
    sure = f"{100 * suspects.probability:.3g} % sure after {runs}"
    if none_bad:
        return f"no version is bad: {sure}"
    among = state.versions[suspects.good + 1 : suspects.bad + 1]
    names = [_described(version) for version in among[:5]]
    names += ["…"] if len(among) > len(names) else []
    width = suspects.bad - suspects.good
    if width == 1:
        return f"first bad: {names[0]} ({sure})"
    return f"first bad among {width}, which could not be told apart: {'; '.join(names)} ({sure})"


def _failures(state: Bisect) -> list[str]:
    return [f"{_short(a.version)} was passed over: {a.failure}" for a in state.answers if a.failure]


def _short(version: str) -> str:
    return version if "=" in version else version[:10]


def _described(version: str) -> str:
    subject = "" if "=" in version else git_output("log", "-1", "--format=%s", version)
    return f"{_short(version)} {subject}".strip()
