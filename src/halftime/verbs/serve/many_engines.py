"""One status made of those of many engines: their counts together, the best of their states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from halftime.base.stats import median
from halftime.records.serve import EngineStatus, State, WorkerStatus

# In this order the best of the engines is the cluster's state.
_BEST: tuple[State, ...] = ("ready", "warming", "starting", "draining", "stopped", "failed")
COUNTS = (  # of EngineStatus; they only grow
    "workers_restarted",
    "workers_failing",
    "workers_hanging",
    "black",
    "recompiles",
    "alarm_count",
    "memory_drops",
    "completed",
    "failed",
    "cancelled",
    "retried",
    "rejected",
    "previews_sent",
    "previews_dropped",
    "shadowed",
    "shadow_different",
)
_ALARMS = 20  # the newest


@dataclass
class ManyEngines:
    """The engines of a cluster by the ids of their replicas. What one that is gone had counted
    stays in the sums, so that no counter ever falls."""

    expected: int = 1  # how many there should be at least
    noun: str = "drawer"
    present: dict[str, EngineStatus] = field(default_factory=dict)
    _counts: dict[str, dict[str, int]] = field(default_factory=dict)  # of all that ever were
    _alarms: list[str] = field(default_factory=list)

    def update(self, reports: Mapping[str, EngineStatus]) -> None:
        """What all that live say now."""
        self.present = dict(reports)
        for replica, status in reports.items():
            before = self._counts.get(replica, {}).get("alarm_count", 0)
            new = min(max(0, status.alarm_count - before), len(status.alarms))
            alarms = status.alarms[len(status.alarms) - new :]
            self._alarms += [f"{self.noun} {replica}: {alarm}" for alarm in alarms]
            self._counts[replica] = {name: getattr(status, name) for name in COUNTS}
        self._alarms = self._alarms[-_ALARMS:]

    @property
    def ready(self) -> dict[str, EngineStatus]:
        """Those that draw."""
        return {name: status for name, status in self.present.items() if status.state == "ready"}

    @property
    def unready(self) -> frozenset[str]:
        """The replicas that do not draw now."""
        return frozenset(self.present.keys() - self.ready.keys())

    @property
    def status(self) -> EngineStatus:
        """All of them as one."""
        sums = {name: sum(counts[name] for counts in self._counts.values()) for name in COUNTS}
        return msgspec.structs.replace(self._now, alarms=tuple(self._alarms), **sums)

    @property
    def _now(self) -> EngineStatus:
        """What the engines are at, without what they have counted."""
        if not self.present:
            return EngineStatus(state="starting", why=f"no {self.noun} reports")
        ordered = sorted(self.present.values(), key=lambda status: _BEST.index(status.state))
        best, statuses = ordered[0], list(self.present.values())
        speeds = [status.seconds_per_picture for status in self.ready.values()]
        resident = [status.resident_bytes for status in statuses if status.resident_bytes]
        waits = [status.ready_in for status in statuses if status.ready_in is not None]
        return EngineStatus(
            state=self._state(best.state),
            why=f"{best.why}; {len(self.ready)} of {len(statuses)} {self.noun}s are ready",
            certificate=next(
                (status.certificate for status in ordered if status.certificate), None
            ),
            queue_depth=sum(status.queue_depth for status in statuses),
            running=sum(status.running for status in statuses),
            workers=_workers(self.present, self.noun),
            resident_bytes=sum(resident) if resident else None,
            seconds_per_picture=median([speed for speed in speeds if speed] or [0.0]) or None,
            ready_in=min(waits, default=None),
        )

    def _state(self, best: State) -> State:
        """Some may fail while others have not begun."""
        if best == "failed" and len(self.present) < self.expected:
            return "starting"
        return best


def _workers(present: Mapping[str, EngineStatus], noun: str) -> tuple[WorkerStatus, ...]:
    """The workers of all, numbered through, with their engine's name."""
    workers = [
        msgspec.structs.replace(worker, why=f"{noun} {replica}: {worker.why}")
        for replica, status in sorted(present.items())
        for worker in status.workers
    ]
    return tuple(
        msgspec.structs.replace(worker, number=number) for number, worker in enumerate(workers)
    )
