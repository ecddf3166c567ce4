"""Requests scheduled at the step against requests scheduled by the call: who waits, and how long.

Regime: the bundled model at 64 and 128 px, one torch thread, 4, 12 and 30 steps at random, in an
open loop; the same arrivals under each way of scheduling, in turns. Every picture is really drawn,
and compared with the same one drawn alone. Moments are the worker's processor time, plus the idle
time between requests, which is skipped: what else runs on the machine does not count, and no batch
is formed, since on a CPU it brings nothing. Capacity is one worker's, from solo times measured
first. A deadline is three times the request's own solo time.

Turns are timed as they are taken; their means, by size and by what is done in them, are what the
simulation of the same row is fed with: the machine as it was then.

Bars: p99 of 4 steps at 0.8 of capacity at most a sixth of call scheduling's; within three times
solo at least 25 points more at 0.8; deadlines met at least 20 points more at 1.0 with admission;
p99 of 30 steps at most 1.5 times; throughput at least 97 %; no picture beyond one grey level;
the simulation within 10 %. What is missed is printed, too.

    python -m benchmarks.serve.steps --out benchmarks/results/serve_steps.json
    python -m benchmarks.serve.steps --short      # two loads, few requests: minutes
    python -m benchmarks.serve.steps --page       # docs/serve-steps.md from the committed result
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.frame import Frame
from benchmarks.tables import ROOT, between, result, table
from halftime import bundled
from halftime.base import units
from halftime.base.environment import load_average
from halftime.base.stats import poisson, quantile
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.step_drawing import Request, StepDrawing, StepPicture
from halftime.verbs.serve.step_policies import Task, fits
from halftime.verbs.serve.step_proof import grey_levels
from halftime.verbs.serve.step_simulator import (
    Costs,
    Rules,
    SimulatedOutcome,
    SimulatedRequest,
    bursty,
    simulate,
)
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, open_studio

KINDS, SIDES, SEEDS, CLIENTS = (4, 12, 30), (64, 128), 2, 4
TIMES_SOLO = 3.0
WAYS = {
    "call": Rules("call", "first-come"),
    "step": Rules("step", "head-start"),
    "call, admission": Rules("call", "first-come", admission=True),
    "step, admission": Rules("step", "deadline", admission=True),
}
PATTERNS = {"poisson": poisson, "bursty": bursty}
PAGE = ROOT / "docs" / "serve-steps.md"


@dataclass
class WorkClock:
    """The processor time of this process, and what was skipped."""

    skipped: float = 0.0

    def __call__(self) -> float:
        return time.process_time() + self.skipped

    def skip_to(self, moment: float) -> None:
        self.skipped += max(0.0, moment - self())


@dataclass
class Turns:
    """Seconds of what a worker did, by size: of turns, and of whole calls by their steps."""

    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    calls: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    part: str = ""  # that the turn is of its request: first, middle or last
    size: int = 0

    def took(self, seconds: float) -> None:
        self.seconds.setdefault((self.part, self.size), []).append(seconds)

    def costs(self, before: Costs) -> Costs:
        """Their means; where a kind of turn was never taken, it is as measured before."""
        step, around = dict(before.step), dict(before.around)
        first = dict(before.before)
        for size in SIDES:
            mean = {
                part: float(np.mean(self.seconds[part, size]))
                for part in ("first", "middle", "last")
                if (part, size) in self.seconds
            }
            if len(mean) == 3:
                step[size] = mean["middle"]
                first[size] = mean["first"] - mean["middle"]
                around[size] = first[size] + mean["last"] - mean["middle"]
            if len({steps for steps, _ in self.calls.get(size, ())}) > 1:
                slope, rest = np.polyfit(*zip(*self.calls[size], strict=True), 1)
                step[size], around[size] = float(slope), float(rest)
        return Costs(step, around, before=first)


@dataclass
class Pictures:
    """Of one run: when each was done, and how far it is from the one drawn alone."""

    clock: WorkClock
    alone: dict[tuple[int, int, int], np.ndarray]
    ends: dict[str, float] = field(default_factory=dict)
    levels: int = 0
    largest: int = 0  # bytes that were put aside at once
    drawing: StepDrawing | None = None
    turns: Turns = field(default_factory=Turns)

    def outcome(self, request: Request) -> str:
        return "waited for"

    def started(self, request: Request) -> None:
        pass

    def stepped(self, requests: Sequence[Request]) -> None:
        (request,) = requests
        first = request.steps_left == request.job.steps - 1
        self.turns.part = "first" if first else "last" if not request.steps_left else "middle"
        self.turns.size = request.job.width
        loops = [request.loop for request in self.drawing.requests.values() if request.loop]
        self.largest = max(self.largest, sum(loop.size for loop in loops))

    def finished(self, request: Request, picture: StepPicture) -> None:
        self.done(request.job, picture.pixels)

    def done(self, job: Job, pixels: np.ndarray) -> None:
        self.ends[job.id] = self.clock()
        begun = time.process_time()
        self.levels = max(self.levels, grey_levels(pixels, self.alone[kind_of(job)]))
        self.clock.skipped -= time.process_time() - begun

    def failed(self, request: Request, error: Exception) -> None:
        raise error

    def left(self, request: Request, outcome: str) -> None:
        pass


def kind_of(job: Job) -> tuple[int, int, int]:
    return job.width, job.steps, job.seed


def job(name: str, side: int, steps: int, seed: int) -> Job:
    prompt = bundled.prompts()[seed].text
    return Job(id=name, prompt=prompt, width=side, height=side, steps=steps, seed=seed)


def draw(studio: Studio, one: Job) -> np.ndarray:
    return studio.draw([one], Watch([one], lambda: [one])).pictures[0]


def solo(studio: Studio) -> dict[tuple[int, int, int], np.ndarray]:
    """Each kind of picture by the pipeline's own call."""
    return {
        (side, steps, seed): draw(studio, job("solo", side, steps, seed))
        for side, steps, seed in itertools.product(SIDES, KINDS, range(SEEDS))
    }


def costs_now(studio: Studio, rounds: int) -> tuple[Costs, Costs]:
    """Seconds of a step and of what is around the loop, by the call and by the step: the medians
    of two lengths of it, in turns."""

    def by_step(one: Job) -> None:
        pictures = Pictures(WorkClock(), {})
        pictures.done = lambda job, pixels: None  # type: ignore[method-assign]
        pictures.drawing = drawing = StepDrawing(studio, pictures)
        drawing.add(one)
        while drawing.requests:
            drawing.turn()

    ways = {"call": lambda one: draw(studio, one), "step": by_step}
    costs = {}
    seconds: dict[tuple[str, int, int], list[float]] = {}
    for _, side, steps, way in itertools.product(range(rounds), SIDES, (4, 30), ways):
        begun = time.process_time()
        ways[way](job("cost", side, steps, 0))
        seconds.setdefault((way, side, steps), []).append(time.process_time() - begun)
    for way in ways:
        few, many = (
            {side: quantile(seconds[way, side, steps], 0.5) for side in SIDES} for steps in (4, 30)
        )
        step = {side: (many[side] - few[side]) / 26 for side in SIDES}
        costs[way] = Costs(step, {side: few[side] - 4 * step[side] for side in SIDES})
    return costs["call"], costs["step"]


def arrivals(
    load: float, pattern: str, count: int, costs: Costs, seed: int, sides: Sequence[int] = SIDES
) -> list[SimulatedRequest]:
    """Kinds in equal parts, at random; `load` is a multiple of one worker's capacity."""
    rng = random.Random(seed)
    kinds = [
        SimulatedRequest("", 0.0, steps, side) for steps, side in itertools.product(KINDS, sides)
    ]
    mean = sum(map(costs.alone, kinds)) / len(kinds)
    moments = PATTERNS[pattern](load / mean, rng)
    drawn = (kinds * (count // len(kinds) + 1))[:count]
    rng.shuffle(drawn)
    return [
        kind._replace(id=str(number), at=at, deadline=at + TIMES_SOLO * costs.alone(kind))
        for number, (kind, at) in enumerate(zip(drawn, moments, strict=False))
    ]


def run(
    studio: Studio, coming: Sequence[SimulatedRequest], rules: Rules, costs: Costs, alone: dict
) -> tuple[list[SimulatedOutcome], Pictures]:
    """Really draw what comes."""
    clock = WorkClock()
    clock.skipped = -time.process_time()
    pictures = Pictures(clock, alone)
    drawing = pictures.drawing = StepDrawing(
        studio, pictures, policy=rules.policy, most_steps=max(KINDS), clock=clock
    )
    for side in SIDES:
        drawing.times.steps[side, side] = costs.step[side]
        drawing.times.after[side, side] = costs.around[side]
    line = list(coming)
    while line or drawing.requests:
        if not drawing.requests:
            clock.skip_to(line[0].at)
        while line and line[0].at <= clock():
            _come(drawing, line.pop(0), rules, costs)
        begun = clock()
        if not drawing.requests:
            continue  # none of those that came was let in
        if rules.scheduling == "step":
            drawing.turn()
            pictures.turns.took(clock() - begun)
        else:
            first = drawing.requests.pop(next(iter(drawing.requests)))
            pictures.done(first.job, draw(studio, first.job))
            call = first.job.steps, clock() - begun
            pictures.turns.calls.setdefault(first.job.width, []).append(call)
    return [
        SimulatedOutcome(arrival, pictures.ends.get(arrival.id)) for arrival in coming
    ], pictures


def _come(drawing: StepDrawing, arrival: SimulatedRequest, rules: Rules, costs: Costs) -> None:
    number = int(arrival.id)
    newcomer = Task(arrival.id, number, arrival.at, costs.alone(arrival), arrival.deadline)
    # who comes during a turn is let in at its end, as in the simulation
    tasks = [
        drawing.task(request)._replace(deadline=request.job.deadline or float("inf"))
        for request in drawing.requests.values()
    ]
    now = drawing.clock()
    if rules.admission and not fits(tasks, newcomer, rules.policy, now):
        return
    one = job(arrival.id, arrival.size, arrival.steps, number % SEEDS)
    deadline = arrival.deadline if rules.admission else None
    drawing.add(
        Job(
            **{
                name: getattr(one, name)
                for name in ("id", "prompt", "width", "height", "steps", "seed")
            },
            deadline=deadline,
        ),
        now - arrival.at,
    )


def row(outcomes: Sequence[SimulatedOutcome], costs: Costs) -> dict:
    """One way of scheduling under one load."""
    done = [outcome for outcome in outcomes if outcome.ended is not None]
    slowdowns = [outcome.seconds / costs.alone(outcome.arrival) for outcome in done]
    by_client = [
        sum(slowdowns[client::CLIENTS]) / len(slowdowns[client::CLIENTS])
        for client in range(CLIENTS)
        if slowdowns[client::CLIENTS]
    ]
    span = max(outcome.ended for outcome in done) - outcomes[0].arrival.at
    return {
        "by_steps": {
            steps: {
                name: quantile([o.seconds for o in done if o.arrival.steps == steps], q)
                for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            }
            for steps in KINDS
            if any(o.arrival.steps == steps for o in done)
        },
        "within_3_solo": sum(s <= TIMES_SOLO for s in slowdowns) / len(outcomes),
        "deadlines_met": sum(outcome.met for outcome in outcomes) / len(outcomes),
        "refused": len(outcomes) - len(done),
        "pictures_a_second": len(done) / span,
        "fairness": sum(by_client) ** 2 / (len(by_client) * sum(s * s for s in by_client)),
    }


def cell(studio, load, pattern, count, costs, alone, seed) -> dict:
    """All ways under the same arrivals, each beside its simulation."""
    coming = arrivals(load, pattern, count, costs[0], seed)
    rows = {"load": load, "pattern": pattern, "requests": count}
    for name, rules in WAYS.items():
        own = costs[rules.scheduling == "step"]
        outcomes, pictures = run(studio, coming, rules, own, alone)
        now = pictures.turns.costs(own)
        rows[name] = row(outcomes, costs[0]) | {
            "simulated": row(simulate(coming, now, rules), costs[0]),
            "costs": plain(now),
            "grey_levels": pictures.levels,
            "aside_bytes": pictures.largest,
        }
        print(load, pattern, name, {k: v for k, v in rows[name].items() if k != "simulated"})
    return rows


def plain(costs: Costs) -> dict:
    """Costs as a result holds them."""
    return {part: dict(getattr(costs, part)) for part in ("step", "around", "before")}


def bars(cells: Sequence[dict]) -> list[dict]:
    """What was to be reached, and what was."""
    rows = []
    for one in cells:
        call, step = one["call"], one["step"]
        where = f"{one['pattern']} {one['load']}"

        def bar(name: str, value: float, limit: float, most: bool, where: str = where) -> None:
            reached = value <= limit if most else value >= limit
            rows.append(
                {"bar": f"{name}, {where}", "value": value, "limit": limit, "reached": reached}
            )

        p99 = {
            steps: step["by_steps"][steps]["p99"] / call["by_steps"][steps]["p99"]
            for steps in KINDS
        }
        if one["load"] == 0.8:
            bar("p99 of 4 steps, step over call", p99[4], 1 / 6, True)
            bar(
                "within 3 solo, points more",
                100 * (step["within_3_solo"] - call["within_3_solo"]),
                25,
                False,
            )
        if one["load"] == 1.0:
            met = one["step, admission"]["deadlines_met"] - one["call, admission"]["deadlines_met"]
            bar("deadlines met with admission, points more", 100 * met, 20, False)
        bar("p99 of 30 steps, step over call", p99[30], 1.5, True)
        bar(
            "throughput, step over call",
            step["pictures_a_second"] / call["pictures_a_second"],
            0.97,
            False,
        )
        bar("grey levels", max(one[way]["grey_levels"] for way in WAYS), 1, True)
        errors = [
            abs(one[way]["simulated"]["by_steps"][steps][q] / one[way]["by_steps"][steps][q] - 1)
            for way in ("call", "step")
            for steps in KINDS
            for q in ("p50", "p95")
        ]
        bar(
            "simulation against drawing, median error of p50 and p95",
            quantile(errors, 0.5),
            0.1,
            True,
        )
    return rows


def rewritten(page: str, measured: dict) -> str:
    """The page with what was drawn, and with the bars."""
    rows = [
        [
            f"{one['load']:g}",
            one["pattern"],
            way,
            *waits(one[way], "p50", "p95", "p99"),
            f"{one[way]['within_3_solo']:.0%}",
            f"{one[way]['deadlines_met']:.0%}",
            f"{one[way]['pictures_a_second']:.2f}",
        ]
        for one in measured["cells"]
        for way in WAYS
    ]
    classes = tuple(f"p50, p95, p99 of {steps}" for steps in KINDS)
    head = ("load", "arrivals", "scheduling", *classes, "within 3x", "met", "a second")
    verdicts = [
        [one["bar"], f"{one['value']:.3g}", f"{one['limit']:.3g}", _verdict(one["reached"])]
        for one in measured["bars"]
    ]
    bar_rows = table(("bar", "measured", "limit", ""), verdicts)
    return between(between(page, "measured", table(head, rows)), "bars", bar_rows)


def waits(way: dict, *quantiles: str) -> list[str]:
    """A cell of the table for each number of steps: these quantiles."""
    return [
        " ".join(units.seconds(way["by_steps"][str(steps)][q]) for q in quantiles)
        for steps in KINDS
    ]


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--page", action="store_true", help="write the page and end")
    frame.parser.add_argument("--short", action="store_true", help="two loads, few requests")
    frame.parser.add_argument("--requests", type=int, default=0, help="in a cell")
    options = frame.parse()
    if options.page:
        PAGE.write_text(rewritten(PAGE.read_text(), result("serve_steps") or {}))
        return
    loads = (0.8, 1.0) if options.short else (0.5, 0.8, 1.0, 1.5)
    patterns = ("poisson",) if options.short else tuple(PATTERNS)
    count = options.requests or (24 if options.short else 300)
    settings = EngineSettings(
        threads=1, tiny_vae=None, img2img=False, inpaint=False, sizes=tuple((s, s) for s in SIDES)
    )
    studio, before = open_studio(settings), load_average()
    alone = solo(studio)
    costs = costs_now(studio, 2 if options.short else 7)
    print("seconds of a step, of what is around it: by the call", costs[0], "by the step", costs[1])
    cells = [
        cell(studio, load, pattern, count, costs, alone, seed)
        for seed, (pattern, load) in enumerate(itertools.product(patterns, loads))
    ]
    measured = {
        "bars": bars(cells),
        "cells": cells,
        "costs": {name: plain(own) for name, own in zip(("call", "step"), costs, strict=True)},
        "load_average": [before, load_average()],
    }
    for one in measured["bars"]:
        print(one)
    frame.write(measured)


if __name__ == "__main__":
    main()
