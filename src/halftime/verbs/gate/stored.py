"""A stored gate as the base: the counters of its candidate, which are exact on any machine."""

from __future__ import annotations

from halftime.base.errors import BadInput
from halftime.records import Workload
from halftime.records.gate import Gate
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder


class StoredSide:
    """Answers for a side whose process has long ended, as a worker does."""

    def __init__(self, record: Gate) -> None:
        self._record = record

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        """What it was."""
        side = self._record.candidate
        return WorkerAnswer(seconds=side.first_call_seconds or 0.0, facts=side.facts)

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        """What was counted; `check_stored` sees to it that nothing else is asked."""
        if order.order != "count":
            raise BadInput(f"a stored gate cannot {order.order}.")
        counters = self._record.counters
        return WorkerAnswer(
            counts={c.name: c.candidate for c in counters if c.candidate is not None},
            details={c.name: c.lines for c in counters if c.lines},
            skipped={c.name: c.skipped for c in counters if c.skipped},
        )

    def end(self) -> None:
        """Nothing is left to end."""


def check_stored(base: Side, model: str | None, workload: Workload, *, compared: bool) -> None:
    """Raises BadInput where a stored base cannot answer what is asked: about time or pictures
    (`compared`), about another model or another workload."""
    record = base.stored
    if record is None:
        return
    if compared:
        raise BadInput(
            f"--against {base.label}: a stored gate has counters, which are exact; its times are "
            "of another hour, and its pictures are not in it. Say --exact --pictures 0, or name "
            "the revision or the environment that it was measured with."
        )
    if record.model != (model or "bundled"):
        raise BadInput(f"{base.label} is about {record.model}, not about {model or 'bundled'}.")
    names = [
        name
        for name in workload.__struct_fields__
        if getattr(workload, name) != getattr(record.workload, name)
    ]
    if names:
        raise BadInput(
            f"{base.label} has another {', '.join(names)}: "
            f"{getattr(record.workload, names[0])!r} there, {getattr(workload, names[0])!r} here. "
            "Gate the same workload, or write the file anew."
        )
