"""What needs no test: counters side by side, and what differs between two environments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from halftime.records.gate import GateCounter, GateDifference
from halftime.records.stages import STAGES
from halftime.verbs.gate.worker import WorkerAnswer

WAITS, WAITS_OUTSIDE = "waits in the loop", "waits outside the loop"
BREAKS, GRAPHS = "graph breaks", "compiled graphs"
OPERATIONS, FLOPS, BYTES, MEMORY = "operations", "FLOPs", "bytes touched", "peak of results"
HIDDEN = "is compiled, and what it launches is not seen"
# counter -> its unit, and whether any more of it is worse (else: more than the margin)
COUNTERS: dict[str, tuple[Literal["count", "flops", "bytes"], bool]] = {
    WAITS: ("count", True),
    WAITS_OUTSIDE: ("count", True),
    BREAKS: ("count", True),
    GRAPHS: ("count", True),
    OPERATIONS: ("count", False),
    FLOPS: ("flops", False),
    BYTES: ("bytes", False),
    MEMORY: ("bytes", False),
}


def compared(
    base: WorkerAnswer, candidate: WorkerAnswer, margin: float, allowed: Sequence[str] = ()
) -> tuple[GateCounter, ...]:
    """Every counter; `allowed` may rise."""
    return tuple(_counter(name, base, candidate, margin, name in allowed) for name in COUNTERS)


def _counter(
    name: str, base: WorkerAnswer, candidate: WorkerAnswer, margin: float, allowed: bool
) -> GateCounter:
    unit, strict = COUNTERS[name]
    before, now = base.counts.get(name), candidate.counts.get(name)
    skipped = candidate.skipped.get(name) or base.skipped.get(name) or ""
    worse = False
    lost = before is not None and now is None and not allowed and not skipped.endswith(HIDDEN)
    if before is not None and now is not None:
        worse = not allowed and now > before * (1 if strict else 1 + margin)
    return GateCounter(
        name=name,
        unit=unit,
        base=before,
        candidate=now,
        worse=worse,
        details=_new_lines(base.details.get(name, ()), candidate.details.get(name, ())),
        lines=candidate.details.get(name, ()),
        skipped=skipped if before is None or now is None else "",
        lost=lost,
    )


def _new_lines(base: Sequence[str], candidate: Sequence[str]) -> tuple[str, ...]:
    """Lines of the candidate alone; one that only moved down in its file is none."""
    before = {_without_line_number(line) for line in base}
    return tuple(line for line in candidate if _without_line_number(line) not in before)


def _without_line_number(text: str) -> str:
    return re.sub(r":\d+", "", text, count=1)


# What slows a pipeline down most often, first; a fact's name ends or begins with it.
_LIKELY = (
    "fixes",
    ".compiled",
    ".dtype",
    ".attention",
    "pipeline",
    ".class",
    "scheduler",
    ".parameters",
    "device",
    "threads",
    "settings.",
    "versions.torch",
    "versions.diffusers",
    "versions.transformers",
    "versions.",
)


def differences(
    base: Mapping[str, str], candidate: Mapping[str, str]
) -> tuple[GateDifference, ...]:
    """Every fact that is another, the likely cause first."""
    names = [n for n in {**base, **candidate} if base.get(n) != candidate.get(n)]
    return tuple(
        GateDifference(name=name, base=base.get(name, "-"), candidate=candidate.get(name, "-"))
        for name in sorted(names, key=lambda name: (_rank(name), name))
    )


def likeliest_first(
    rows: Sequence[GateDifference], stage: str | None
) -> tuple[GateDifference, ...]:
    """Those first that concern a component of the stage that moved."""
    words = {
        word.lstrip("=")
        for entry in STAGES
        if entry.name == stage
        for names in entry.components.values()
        for word in names.split()
    }
    return tuple(sorted(rows, key=lambda row: row.name.partition(".")[0] not in words))


def _rank(name: str) -> int:
    return next(
        (
            number
            for number, word in enumerate(_LIKELY)
            if name.endswith(word) or name.startswith(word)
        ),
        len(_LIKELY),
    )
