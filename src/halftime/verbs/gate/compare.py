"""What needs no test: counters side by side, and what differs between two environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from halftime.records.gate import GateCounter, GateDifference
from halftime.verbs.gate.worker import WorkerAnswer

# counter -> its unit, and whether any more of it is worse (else: more than the margin)
COUNTERS: dict[str, tuple[Literal["count", "flops", "size"], bool]] = {
    "waits in the loop": ("count", True),
    "waits outside the loop": ("count", True),
    "graph breaks": ("count", True),
    "compiled graphs": ("count", True),
    "operations": ("count", False),
    "FLOPs": ("flops", False),
    "bytes touched": ("size", False),
    "peak memory": ("size", False),
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
    skipped = base.skipped.get(name) or candidate.skipped.get(name) or ""
    worse = False
    if before is not None and now is not None:
        worse = not allowed and now > before * (1 if strict else 1 + margin)
    old = set(base.details.get(name, ()))
    details = tuple(line for line in candidate.details.get(name, ()) if line not in old)
    return GateCounter(
        name=name,
        unit=unit,
        base=before,
        candidate=now,
        worse=worse,
        details=details,
        skipped=skipped if before is None or now is None else "",
    )


# What slows a pipeline down most often, first; a fact's name ends or begins with it.
_LIKELY = (
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
        for name in sorted(names, key=_rank)
    )


def _rank(name: str) -> int:
    return next(
        (
            number
            for number, word in enumerate(_LIKELY)
            if name.endswith(word) or name.startswith(word)
        ),
        len(_LIKELY),
    )
