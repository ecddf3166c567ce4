"""What a repository accepts on purpose: the lines of a file, which of them count, what they cover.

A line counts while the candidate has it and the base has not: with the commit that it came with,
it becomes part of the next base, and is spent. Where the base is no revision and so has no such
file, a line counts for the base that it names; a stored gate spends what is older than itself.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from halftime.base.errors import BadFile, BadInput
from halftime.base.lines import read_lines
from halftime.base.units import parse_share, share
from halftime.base.version import git_output
from halftime.records.gate import ACCEPTED_FILE, Acceptance, Gate, GateCounter, StageShift
from halftime.records.stages import STAGES
from halftime.verbs.gate.compare import COUNTERS, MEMORY, WAITS
from halftime.verbs.gate.sequential import Cohort, excludes_at_least, excludes_at_most
from halftime.verbs.gate.sides import Side

SPEED, PICTURES = "speed", "pictures"
SHORT_NAMES = {"waits": WAITS, "memory": MEMORY}
STAGE_NAMES = tuple(stage.name for stage in STAGES)
ACCEPTABLE = (SPEED, PICTURES, *SHORT_NAMES, *COUNTERS, *STAGE_NAMES)


# ---- writing


def accept(subject: str, reason: str, *, model: str = "", against: str = "") -> Acceptance:
    """A line for 'speed=8%', 'vae_decode=8%', 'waits=2', 'memory=10%' or 'pictures', of now. Raises
    BadInput where that says nothing, or there is no reason."""
    if not reason.strip():
        raise BadInput("--reason is empty: say why this may be worse, for who reads it in a year.")
    name, _, amount = (part.strip() for part in subject.partition("="))
    name = SHORT_NAMES.get(name, name)
    if name not in ACCEPTABLE:
        near = difflib.get_close_matches(name, ACCEPTABLE, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(ACCEPTABLE)}."
        raise BadInput(f"{name!r} is nothing that a gate looks at. {hint}")
    return Acceptance(
        what=name,
        at_most=_amount(name, amount),
        reason=" ".join(reason.split()),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        against=against,
    )


def _amount(name: str, text: str) -> float | None:
    if name == PICTURES:
        if text:
            raise BadInput(f"pictures={text}: pictures are others or not; write pictures alone.")
        return None
    if _counts_each(name):
        if not (text.isascii() and text.isdecimal() and int(text)):
            raise BadInput(f"{name}={text}: how many more, at least 1, as {name}=2.")
        return float(text)
    if not text:
        raise BadInput(f"{name}: how much at most? Write {name}=5%, for example.")
    value = parse_share(text)
    if not value > 0:
        raise BadInput(f"{name}={text}: more than 0 %, as {name}=5%.")
    return value


def _counts_each(name: str) -> bool:
    """Whether one more is worse, so that an amount is a number and not a share."""
    return name in COUNTERS and COUNTERS[name][1]


def objections_of(record: Gate, reason: str) -> tuple[Acceptance, ...]:
    """A line for each thing that a gate objected to, at most as much as it measured, for its model;
    and for its base, where that is no revision. Raises BadInput where it objected to nothing."""
    subjects = []
    if record.speed == "slower" and record.verdict == "slower":
        subjects.append(f"{SPEED}={_rounded_up(record)}")
    for counter in record.counters:
        if counter.worse and not counter.accepted:
            subjects.append(f"{counter.name}={_measured(counter)}")
    different = record.pictures is not None and record.pictures.verdict == "different"
    if different and all(line.what != PICTURES for line in record.accepted):
        subjects.append(PICTURES)
    if not subjects:
        raise BadInput(f"this gate objected to nothing: its verdict is {record.verdict}.")
    against = "" if record.base.kind == "revision" else record.base.label
    return tuple(
        accept(subject, reason, model=record.model, against=against) for subject in subjects
    )


def _rounded_up(record: Gate) -> str:
    """The upper bound of the slowdown as '8.3%'. Raises BadInput where there is none."""
    if record.high is None:
        raise BadInput(
            "this gate has no upper bound of the slowdown yet. Say how much may be accepted: "
            "speed=10%, for example."
        )
    return f"{_up(record.high - 1)}%"


def _measured(counter: GateCounter) -> str:
    before, now = counter.base or 0.0, counter.candidate or 0.0
    if _counts_each(counter.name):
        return f"{now - before:.0f}"
    if not before:
        raise BadInput(
            f"{counter.name} was 0 before, so no share of it can be accepted. Let it rise by "
            f"--allow '{counter.name}'."
        )
    return f"{_up(now / before - 1)}%"


def _up(value: float) -> float:
    """A share in per cent, to the next tenth."""
    return int(1000 * value + 1) / 10


# ---- which lines count


def counting(file: str | None, base: Side, model: str | None) -> tuple[Acceptance, ...]:
    """The lines of the candidate's file that count against this base; without a name, those of
    ACCEPTED_FILE, if there is one. Raises BadInput or BadFile."""
    path = Path(file or ACCEPTED_FILE)
    if file is None and not path.is_file():
        return ()
    lines = read_lines(path, Acceptance)
    if lines.broken:
        raise BadFile(
            f"{path}, line {lines.broken[0]}, is not what `halftime gate accept` writes: mend it "
            "or remove it."
        )
    fitting = [line for line in lines.records if line.model in ("", model or "bundled")]
    spent = _spent(fitting, path, base)
    return tuple(line for line in fitting if line not in spent)


def _spent(lines: Sequence[Acceptance], path: Path, base: Side) -> list[Acceptance]:
    if base.kind == "revision":
        elsewhere = [line for line in lines if line.against]
        return [*elsewhere, *_lines_at(base, path)]
    elsewhere = [line for line in lines if line.against != base.label]
    older = [line for line in lines if base.created and line.date <= base.created]
    return [*elsewhere, *older]


def _lines_at(base: Side, path: Path) -> tuple[Acceptance, ...]:
    """What the file holds at the base's revision."""
    root = git_output("rev-parse", "--show-toplevel")
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise BadInput(
            f"--accepted {path} lies outside of this repository, so no commit of it would ever be "
            "spent: name a file that is committed here."
        )
    before = base.folder / os.path.relpath(path.resolve(), Path.cwd().resolve())
    return read_lines(before, Acceptance).records if before.is_file() else ()


# ---- what they cover


def of(subject: str, acceptances: Iterable[Acceptance]) -> Acceptance | None:
    """The line that accepts most of it."""
    rows = [line for line in acceptances if line.what == subject]
    return max(rows, key=lambda line: line.at_most or 0.0, default=None)


def speed_limits(acceptances: Sequence[Acceptance], margin: float) -> list[Acceptance]:
    """Those about time, that accept more than counts as slower anyway."""
    names = (SPEED, *STAGE_NAMES)
    return [a for a in acceptances if a.what in names and (a.at_most or 0.0) > margin]


def is_settled(limits: Sequence[Acceptance], cohorts: Sequence[Cohort], alpha: float) -> bool:
    """Whether it is shown of each limit that the slowdown is less, or that it is more."""
    return all(
        excludes_at_least(cohorts, line.at_most or 0.0, alpha)
        or excludes_at_most(cohorts, line.at_most or 0.0, alpha)
        for line in limits
    )


def covering(
    limits: Sequence[Acceptance],
    cohorts: Sequence[Cohort],
    stages: Sequence[StageShift],
    alpha: float,
    margin: float,
) -> Acceptance | None:
    """The line that a slowdown is shown to stay within: of the whole call, or of one stage where
    all other stages together add less than `margin`."""
    for line in limits:
        within = excludes_at_least(cohorts, line.at_most or 0.0, alpha)
        if within and (line.what == SPEED or _is_of_stage(line.what, stages, margin)):
            return line
    return None


def _is_of_stage(name: str, stages: Sequence[StageShift], margin: float) -> bool:
    wall = sum(stage.base_seconds for stage in stages)
    rises = {s.stage: s.difference_seconds for s in stages if s.moved and s.difference_seconds > 0}
    return name in rises and sum(rises.values()) - rises[name] < margin * wall


def with_reasons(
    counters: Sequence[GateCounter], acceptances: Sequence[Acceptance]
) -> tuple[GateCounter, ...]:
    """The counters, with the reason at those that are worse within what is accepted."""
    return tuple(_with_reason(counter, of(counter.name, acceptances)) for counter in counters)


def _with_reason(counter: GateCounter, line: Acceptance | None) -> GateCounter:
    if line is None or not counter.worse or counter.base is None or counter.candidate is None:
        return counter
    most = line.at_most or 0.0
    bound = counter.base + most if _counts_each(counter.name) else counter.base * (1 + most)
    if counter.candidate > bound:
        return counter
    return msgspec.structs.replace(counter, accepted=line.reason)


def amount_words(line: Acceptance) -> str:
    """'at most 8.0 %', 'at most 2 more'."""
    if line.at_most is None:
        return "other pictures"
    if _counts_each(line.what):
        return f"at most {line.at_most:.0f} more"
    return f"at most {share(line.at_most)}"
