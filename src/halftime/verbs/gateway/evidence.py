"""What findings are drawn from, and the load that shows a gateway by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halftime.records import Finding
from halftime.records.gateway import Load

Facts = dict[str, float | int | str]
CONSTANT = 0.5  # of the median: where the fifth percentile is as long, nearly all of them wait


@dataclass(frozen=True)
class GatewayEvidence:
    """The loads, and what was measured beside them."""

    loads: Sequence[Load]
    first_request: float | None = None  # latency of the first one through
    ca_bundle: float | None = None  # seconds that loading a CA bundle takes on this machine
    capacity: float | None = None
    stream: bool = False
    connect: float = 0.0  # seconds of a fresh connection to the gateway, with TLS
    stopped: str | None = None  # the gateway stopped answering


Rule = Callable[[GatewayEvidence], Finding | None]


def finding(name: str, message: str, seconds: float | None, facts: Facts) -> Finding:
    """A finding of this room."""
    return Finding(id=name, stage="gateway", message=message, seconds=seconds, evidence=facts)


def quietest(loads: Sequence[Load]) -> Load | None:
    """The load least disturbed by queueing: sequential, or else the first unsaturated one."""
    usable = [load for load in loads if load.best is not None and not load.saturated]
    return next(
        (load for load in usable if load.mode == "sequential"), usable[0] if usable else None
    )


def closed_loop(loads: Sequence[Load]) -> Load | None:
    """The load with so many requests in flight all the time."""
    return next((load for load in loads if load.mode == "closed"), None)


def is_busy(load: Load) -> bool:
    """The gateway's CPU, rather than a wait, is what limits it under this load."""
    cpu, rate = load.cpu_per_request, load.throughput
    return cpu is not None and rate is not None and cpu * rate >= BUSY_CORES


BUSY_CORES = 0.7
