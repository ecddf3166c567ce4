"""What an audit found: every place where CPU and GPU would wait for each other."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.finding import Finding
from halftime.records.fixes import RecordedFixName
from halftime.records.workload import Workload

Direction = Literal["d2h", "h2d"]


class Site(Record, frozen=True, kw_only=True):
    """One line that waits, with how often it did."""

    # 'item', 'nonzero', 'mask-index', 'copy-to-host', 'copy-to-device', 'check', 'synchronize'
    kind: str
    # what the host waits for: a value of the device (d2h), or its own copy from pageable memory
    # (h2d). Both end when all that was queued before is done: a copy that blocks, or a pageable
    # one, synchronises the stream.
    direction: Direction
    file: str  # innermost frame outside torch, from the package's root
    line: int
    function: str = ""
    code: str = ""  # the line itself
    pipeline_frame: str = ""  # file:line of the pipeline's own frame
    count: int
    in_loop: bool
    per_step: bool = False  # at least once in every denoising step
    stage: str
    fix: RecordedFixName | None = None
    operation: str = ""  # aten's name
    advice: str = ""  # what to write instead, where no fix of halftime's does it


# Schema history
# 1  2026-11  first
class Audit(Record, frozen=True, kw_only=True):
    """All sites of one call, the most frequent in the loop first."""

    schema: Literal[1] = 1
    halftime: str = ""
    model: str = ""
    pipeline: str
    scheduler: str = ""
    torch: str = ""
    workload: Workload
    steps_seen: int = 0
    sites: tuple[Site, ...] = ()
    in_loop_total: int = 0
    in_loop_d2h: int = 0
    in_loop_h2d: int = 0
    capturable: bool = False
    because: tuple[str, ...] = ()  # what stands against capture
    # host work repeated in every step, and what differs between steps
    findings: tuple[Finding, ...] = ()
    not_seen: tuple[str, ...] = ()  # what the shadow device cannot look into


class RuleCase(Record, frozen=True, kw_only=True):
    """One call, judged twice."""

    name: str
    torchs: bool = False  # from torch's own test of its mode
    rule: bool  # the host waits, by the rules
    device: bool  # the host waits, as torch's mode warned on the device

    @property
    def agrees(self) -> bool:
        """Whether both say the same."""
        return self.rule == self.device


# Schema history
# 1  2026-11  first
class RulesCheck(Record, frozen=True, kw_only=True):
    """The rules of `audit` beside what a real device does."""

    schema: Literal[1] = 1
    halftime: str = ""
    torch: str
    device: str
    cases: tuple[RuleCase, ...]

    @property
    def wrong(self) -> tuple[RuleCase, ...]:
        """Where rule and device differ."""
        return tuple(case for case in self.cases if not case.agrees)
