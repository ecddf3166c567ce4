"""CPU of the gateway where its process is local, and of everything else on the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

import psutil

from halftime.base.errors import BadInput
from halftime.verbs.gateway.timer import now

_LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def listener_pids(url: str) -> set[int]:
    """Ids of the local processes that listen on the URL's port.

    Empty for another host, or without permission to look.
    """
    parts = urlsplit(url)
    if parts.hostname not in _LOCAL:
        return set()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return set()
    listeners = [c for c in connections if c.status == psutil.CONN_LISTEN]
    return {c.pid for c in listeners if c.laddr.port == port and c.pid}


def family(pids: Iterable[int]) -> set[int]:
    """The processes and all their descendants."""
    members = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            members |= {pid} | {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return members


def checked_pid(pid: int) -> int:
    """Raises BadInput where there is no such process."""
    if not psutil.pid_exists(pid):
        raise BadInput(
            f"--pid {pid}: there is no such process. Leave it out to find it by the port of "
            "--through."
        )
    return pid


def cpu_seconds(pids: Collection[int]) -> float:
    """User and system time of the processes so far."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def _busy() -> float:
    times = psutil.cpu_times()
    return float(
        times.user
        + times.nice
        + times.system
        + getattr(times, "irq", 0)
        + getattr(times, "softirq", 0)
    )


class Meter:
    """CPU between `start` and `stop`: the gateway's, and that of unrelated processes."""

    def __init__(self, gateway: Collection[int], upstream: Collection[int]) -> None:
        self._gateway = family(gateway)
        self._ours = self._gateway | family(upstream) | {os.getpid()}
        self.gateway_seconds = self.background_seconds = self.wall_seconds = 0.0

    def start(self) -> None:
        """Begin a stretch of load."""
        self._at = now(), cpu_seconds(self._gateway), _busy(), cpu_seconds(self._ours)

    def stop(self, through: bool) -> None:
        """End it; the gateway's CPU counts where the stretch went through it."""
        moment, gateway, busy, ours = self._at
        if through:
            self.gateway_seconds += cpu_seconds(self._gateway) - gateway
        self.wall_seconds += now() - moment
        self.background_seconds += max(0.0, (_busy() - busy) - (cpu_seconds(self._ours) - ours))

    @property
    def background_cores(self) -> float:
        """Cores that others kept busy."""
        return self.background_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def knows_gateway(self) -> bool:
        """The gateway's process is local and visible."""
        return bool(self._gateway)
