"""A machine on which two versions differ by what a test plants: simulated processes, a number for a
clock, so nothing waits."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from halftime.base.errors import HalftimeError
from halftime.records import Workload
from halftime.records.gate import Acceptance, Gate
from halftime.verbs.gate.compare import COUNTERS, WAITS
from halftime.verbs.gate.process import NotInTime
from halftime.verbs.gate.run import GateSettings, gate
from halftime.verbs.gate.sides import Side
from halftime.verbs.gate.worker import WorkerAnswer, WorkerOrder
from halftime.verbs.verify.pictures import Picture, PictureSet, write_folder

BASE, CANDIDATE = Side("before"), Side("now")
STAGES = {"encode_prompt": 0.01, "denoise": 0.14, "vae_decode": 0.05}


@dataclass
class Machine:
    """Two versions on one machine whose processes differ; `slower` adds seconds to a stage."""

    slower: dict[str, float] = field(default_factory=dict)
    waits: int = 0  # more of the candidate's
    uncountable: str = ""  # why the candidate's waits cannot be counted
    grey: int = 0  # the candidate's pictures are brighter by so much
    black: bool = False  # the candidate's first picture is
    between: float = 0.01
    starting: float = 8.0
    call: float = 1.0  # all stages are so many times as long
    draws: bool = True
    versions: dict[str, str] = field(default_factory=dict)  # of the candidate
    now: float = 0.0
    alive: int = 0
    most_alive: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def start(self, side: Side) -> SimulatedWorker:
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        return SimulatedWorker(self, side.label == CANDIDATE.label)

    def gate(self, *, acceptances: tuple[Acceptance, ...] = (), **settings) -> Gate:
        chosen = GateSettings(**{"pictures": 0, "seed": 1, **settings})
        return gate(
            None,
            BASE,
            CANDIDATE,
            Workload(),
            chosen,
            start=self.start,
            clock=lambda: self.now,
            acceptances=acceptances,
        )


class SimulatedWorker:
    def __init__(self, machine: Machine, candidate: bool) -> None:
        self._machine, self._candidate = machine, candidate
        self._luck = 1 + machine.rng.gauss(0, machine.between)

    def ready(self, seconds: float | None = None) -> WorkerAnswer:
        self._machine.now += self._machine.starting
        if seconds is not None and self._machine.starting > seconds:
            raise NotInTime("a process was not ready")
        facts = self._machine.versions if self._candidate else {}
        return WorkerAnswer(seconds=2.0, facts={"versions.torch": "2.13", **facts})

    def ask(self, order: WorkerOrder) -> WorkerAnswer:
        return {"call": self._call, "count": self._count, "draw": self._draw}[order.order](order)

    def end(self) -> None:
        self._machine.alive -= 1

    def _call(self, order: WorkerOrder) -> WorkerAnswer:
        machine = self._machine
        more = machine.slower if self._candidate else {}
        noise = self._luck * (1 + machine.rng.expovariate(1 / 0.02))
        stages = {n: machine.call * (s * noise + more.get(n, 0.0)) for n, s in STAGES.items()}
        machine.now += sum(stages.values())
        return WorkerAnswer(seconds=sum(stages.values()), stages=stages)

    def _count(self, order: WorkerOrder) -> WorkerAnswer:
        counts = dict.fromkeys(COUNTERS, 100.0)
        lines = ("mine.py:7: x.item() (item, 4 times)",) if self._candidate else ()
        more = self._machine.waits if self._candidate else 0
        if self._candidate and self._machine.uncountable:
            del counts[WAITS]
            return WorkerAnswer(counts=counts, skipped={WAITS: self._machine.uncountable})
        return WorkerAnswer(counts={**counts, WAITS: 100.0 + more}, details={WAITS: lines})

    def _draw(self, order: WorkerOrder) -> WorkerAnswer:
        if not self._machine.draws:
            raise HalftimeError("this pipeline gave a waveform.")
        bright = self._machine.grey if self._candidate else 0
        pictures = [
            Picture(f"{n}", np.random.default_rng(n).integers(0, 150, (64, 64, 3)).astype("u1"))
            for n in range(order.pictures)
        ]
        brighter = [Picture(p.name, p.pixels + np.uint8(bright)) for p in pictures]
        if self._machine.black and self._candidate:
            brighter[0] = Picture("0", np.zeros_like(pictures[0].pixels))
        write_folder(Path(order.folder), PictureSet("simulated", tuple(brighter)))
        return WorkerAnswer(seconds=1.0)


def git(*words: str) -> str:
    """Standard output of git in the current folder, as somebody who may commit."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()
