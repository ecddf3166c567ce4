"""Who else is at work on this machine: looked at before anything is measured, and said whose."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil

from halftime.base.environment import load_average, usable_cores

# Verbs that measure, or load the machine as those do.
MEASURING = ("profile", "tune", "verify", "replay", "run")
# Of the usable cores: what others may take before it matters, and what must be idle.
QUIET, IDLE = 0.25, 0.5
_WAIT_POLICY = "OMP_WAIT_POLICY"
YIELDING = "PASSIVE, set by halftime beside other work"
_SET_BY_US = "HALFTIME_SET_OMP_WAIT_POLICY"


class Neighbour(NamedTuple):
    """Another process: whose, what it runs, how many cores it takes, and whether it is halftime
    that measures."""

    pid: int
    user: str
    command: str
    cores: float = 0.0
    measures: bool = False


class Surroundings(NamedTuple):
    """What was seen. `idle_cores` is of the whole machine."""

    cores: int
    idle_cores: float
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether what is measured now says more about the others."""
        used = sum(neighbour.cores for neighbour in self.neighbours)
        measuring = any(neighbour.measures for neighbour in self.neighbours)
        return measuring or used > QUIET * self.cores or self.idle_cores < IDLE * self.cores


def look(seconds: float = 0.25) -> Surroundings:
    """Look at the machine. It takes `seconds` where the load average or another halftime give
    reason to, and next to nothing elsewhere."""
    cores = usable_cores()
    processes = list(_processes())
    measuring = [process for process in processes if process.measures]
    if not measuring and load_average() < IDLE * cores:
        return Surroundings(cores, float(cores))
    before, idle_before, begun = _cpu_seconds(processes), _idle_seconds(), time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - begun
    after, idle = _cpu_seconds(processes), (_idle_seconds() - idle_before) / elapsed
    with_cores = (
        process._replace(cores=(after[process.pid] - before[process.pid]) / elapsed)
        for process in processes
        if process.pid in before and process.pid in after
    )
    notable = [process for process in with_cores if process.measures or process.cores > 0.1]
    notable.sort(key=lambda process: (not process.measures, -process.cores))
    return Surroundings(cores, idle, tuple(notable))


def _processes() -> Iterator[Neighbour]:
    """All but this one, those that it started, and those that started it."""
    this = psutil.Process()
    own = {
        this.pid,
        *(process.pid for process in (*this.children(recursive=True), *this.parents())),
    }
    for process in psutil.process_iter(["pid", "username", "name", "cmdline"]):
        facts = process.info
        if facts["pid"] not in own:
            words = facts["cmdline"] or [facts["name"] or "?"]
            yield Neighbour(
                facts["pid"], facts["username"] or "?", _command(words), measures=_measures(words)
            )


def _measures(words: list[str]) -> bool:
    """`halftime VERB …`, `python -m halftime VERB …`, or the same by a path."""
    return any(
        Path(word).name in ("halftime", "halftime.exe") and following in MEASURING
        for word, following in pairwise(words[:7])
    )


def _command(words: list[str]) -> str:
    """As short as it still tells one from another."""
    named = [Path(words[0]).name, *words[1:]]
    text = " ".join(named)
    return text if len(text) <= 60 else text[:57] + "..."


def _cpu_seconds(processes: Iterable[Neighbour]) -> dict[int, float]:
    seconds = {}
    for process in processes:
        try:
            times = psutil.Process(process.pid).cpu_times()
        except psutil.Error:
            continue  # it has ended, or is nobody's business
        seconds[process.pid] = times.user + times.system
    return seconds


def _idle_seconds() -> float:
    return float(psutil.cpu_times().idle)


def sentence(surroundings: Surroundings) -> str:
    """Who takes what, and what it does to a measurement; '' where nobody matters."""
    if not surroundings.busy:
        return ""
    names = [_words(neighbour) for neighbour in surroundings.neighbours[:3]]
    more = len(surroundings.neighbours) - len(names)
    also = f" and {more} more" if more > 0 else ""
    who = f"{', '.join(names)}{also}" if names else "by whom cannot be seen from here"
    text = f"other work is running on these {surroundings.cores} cores: {who}"
    if any(neighbour.measures for neighbour in surroundings.neighbours):
        text += "; two that measure at once make each other many times slower: let one end first"
    return text


def _words(neighbour: Neighbour) -> str:
    cores = f"{neighbour.cores:.1f} cores"
    return f"{neighbour.command!r} (process {neighbour.pid} of {neighbour.user}, {cores})"


def yield_to(surroundings: Surroundings) -> bool:
    """Let this process's idle threads sleep where others need the cores: spinning, they and the
    others' keep each other from working. Returns whether it could: OpenMP reads this when torch is
    imported."""
    if not surroundings.busy or _WAIT_POLICY in os.environ or "torch" in sys.modules:
        return False
    os.environ[_WAIT_POLICY] = "PASSIVE"
    os.environ[_SET_BY_US] = "1"
    return True


def wait_policy_words() -> dict[str, str]:
    """The setting as a session records it: halftime's own choice is told from the user's."""
    return {_WAIT_POLICY: YIELDING} if _SET_BY_US in os.environ else {}
