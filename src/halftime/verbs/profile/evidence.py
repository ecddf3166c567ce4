"""What the rules of `profile` may look at: plain data of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from halftime.base import units
from halftime.records import (
    CompileReport,
    Finding,
    Json,
    LedgerRow,
    MemoryReport,
    Span,
    Transfer,
    WeightMoves,
)
from halftime.records.finding import ceiling
from halftime.records.fixes import FixName
from halftime.verbs.profile.facts import Facts
from halftime.verbs.profile.guidance import GuidanceFacts
from halftime.verbs.profile.thumbnails import PictureFacts


@dataclass(frozen=True)
class Probed:
    """What short calls of their own showed, which are not timed."""

    memory: MemoryReport | None = None
    adapter_share: float = 0.0
    moves: tuple[WeightMoves, ...] = ()
    transfers: tuple[Transfer, ...] = ()  # on a traced device
    guidance: GuidanceFacts | None = None


NOT_PROBED = Probed()
# Below this share of the wall clock a cost is not worth a reader's time.
WORTH_SAYING = 0.02

# All that the rules can find, in the order of docs/findings.md. A new one needs an example in
# tests/planted_findings.py.
FindingName = Literal[
    "broken-picture",
    "denoiser-fp32",
    "denoiser-fp16",
    "denoiser-contiguous",
    "denoiser-eager",
    "vae-fp32",
    "vae-fp16",
    "vae-contiguous",
    "vae-eager",
    "vae-upcast",
    "vae-decodes",
    "vae-slicing",
    "vae-tiling",
    "text-fp32",
    "prompt-encoding",
    "text-first-call",
    "first-call",
    "loop-glue",
    "scheduler-step",
    "callback",
    "postprocess",
    "safety-checker",
    "compile-without-effect",
    "compiled-not-called",
    "compiles-in-steady-calls",
    "recompiles",
    "graph-breaks",
    "old-attention",
    "attention-slicing",
    "lora-unfused",
    "guidance-for-nothing",
    "transformer-cache",
    "transformer-attention",
    "transformer-quantise",
    "host-waits",
    "launch-bound",
    "memory-grows",
    "memory-nearly-full",
    "weights-moved",
    "openmp-spins",
]
FINDING_NAMES: tuple[FindingName, ...] = get_args(FindingName)


class Obstacle(NamedTuple):
    """Why a fix with its default settings cannot be put on a pipeline, and others with which it
    can."""

    reason: str
    way_round: Mapping[str, Json] = {}

    @property
    def words(self) -> str:
        if not self.way_round:
            return f"does not apply here: {self.reason}"
        settings = ", ".join(f"{name} = {value!r}" for name, value in self.way_round.items())
        return f"applies here with {settings} (without: {self.reason})"


@dataclass(frozen=True)
class ProfileEvidence:
    """What the rules may look at."""

    wall_seconds: float
    first_call_seconds: float | None
    ledger: tuple[LedgerRow, ...]
    facts: Facts
    compilation: CompileReport | None
    load_average: float
    cores: int
    spans: Sequence[Span] = ()  # of the last steady run
    compiled_for: tuple[str, ...] = ()  # the user's lines for which steady runs compiled
    drawing: PictureFacts | None = None  # of the last call; None where it drew nothing to look at
    steps: int = 0  # that the call took
    adapter_share: float = 0.0  # of the denoiser's time that its adapters take
    memory: MemoryReport | None = None
    moves: tuple[WeightMoves, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    guidance: GuidanceFacts | None = None
    refused: Mapping[FixName, Obstacle] = field(default_factory=dict)  # what cannot be put on

    def row(self, stage: str, part: str | None = None) -> LedgerRow | None:
        """The row of a stage, or of one of its parts; None where the call had none."""
        row = next((row for row in self.ledger if row.stage == stage), None)
        if row is None or part is None:
            return row
        if not row.parts:
            return row if part not in ("glue", "progress_bar", "scheduler", "callback") else None
        return next((inner for inner in row.parts if inner.stage == part), None)

    def costs(self, stage: str, part: str | None = None) -> float:
        """Seconds of a stage or part; 0 where the call had none."""
        row = self.row(stage, part)
        return row.seconds if row else 0.0

    def worth_saying(self, seconds: float) -> bool:
        """Whether a cost is large enough in this call for a word."""
        return seconds >= WORTH_SAYING * self.wall_seconds

    def hopeless(self, fix: FixName) -> bool:
        """Whether the fix would be refused with whatever settings."""
        return fix in self.refused and not self.refused[fix].way_round

    def possible(self, fix: FixName) -> FixName | None:
        """The fix, or None where it would be refused."""
        return None if fix in self.refused else fix

    def finding(
        self,
        name: FindingName,
        stage: str,
        seconds: float,
        fix: FixName | None,
        message: str,
        where: tuple[str, ...] = (),
    ) -> Finding:
        """A finding with its ceiling over the steady call; without its fix, and with the reason,
        where that would be refused."""
        if fix is not None and fix in self.refused:
            message = f"{message}; the fix {fix} {self.refused[fix].words}"
            return self.finding(name, stage, seconds, None, message, where)
        return finding_of(
            name, stage, message, cost=(seconds, self.wall_seconds), fix=fix, where=where
        )

    def part_of_call(self, seconds: float) -> str:
        """'1.2 s, 21.4 % of the call'."""
        return f"{units.seconds(seconds)}, {units.share(seconds / self.wall_seconds)} of the call"


def finding_of(
    name: FindingName,
    stage: str,
    message: str,
    *,
    cost: tuple[float, float] | None = None,
    fix: FixName | None = None,
    where: tuple[str, ...] = (),
    broken: bool = False,
) -> Finding:
    """A finding of one of the names above; `cost` is its seconds, and of how many."""
    return Finding(
        id=name,
        stage=stage,
        message=message,
        seconds=cost[0] if cost else None,
        ceiling=ceiling(*cost) if cost else None,
        fix=fix,
        where=where,
        broken=broken,
    )


def counted(number: int, word: str) -> str:
    """'1 picture', '4 pictures'."""
    return f"{number} {word}{'' if number == 1 else 's'}"


Rule = Callable[[ProfileEvidence], Iterator[Finding]]
