"""Open-loop load on `halftime serve`, and what the server costs over a bare pipeline call.

Regime: the bundled model, one thread, few steps (STEPS), one machine for server, worker and
generator. Capacity is what a closed loop of CLOSED workers completes just before and just after
(the mean: the machine drifts). In rounds, Poisson arrivals at 0.5, 1, 2 and 5 times capacity are
sent on schedule whatever happened to those before; latency counts from the intended send. Ceiling:
goodput = min(offered, capacity).

Overhead: pairs of one bare call and one request, shuffled, 30 steps, one thread each; and, exactly,
what the client waited less what the worker computed. The bare call is made in a process of its own
that waits between calls, as the worker does. Measured beside it is its past: a bare one that has
drawn batches before is slower too.

    python benchmarks/serve_load.py [--seconds 8] [--pairs 40]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from halftime.base.stats import bootstrap, median, quantile
from halftime.verbs.gateway.client import Pool, Sample
from halftime.verbs.gateway.endpoint import Endpoint, Payload, endpoint
from halftime.verbs.gateway.load import closed, numbers, open_loop, schedule
from halftime.verbs.gateway.timer import Timer
from serve_process import Server, serving, written

STEPS, DEADLINE, QUEUE, CLOSED = 4, 5.0, 16, 6
LEVELS = (0.5, 1.0, 2.0, 5.0)
ROUNDS, CLOSED_SECONDS = 3, 4.0
BODY = '{"prompt": "a flat icon of a kite, {id}", "steps": 4, "seed": 1}'
PROMPT = "a 3D render of a red apple on a white background"


def asked(server: Server) -> Endpoint:
    """One drawing request, as bytes."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(BODY)
        file.flush()
        return endpoint(f"{server.address}/v1/images/generations", Payload(kind=file.name))


async def capacity(server: Server, seconds: float) -> float:
    """Pictures a second that a closed loop completes."""
    pool = Pool(asked(server), "closed", 60.0)
    await closed(pool, CLOSED, 0.5, numbers(0))
    begun = time.monotonic()
    samples = await closed(pool, CLOSED, seconds, numbers(1))
    took = time.monotonic() - begun
    pool.close()
    assert all(sample.ok for sample in samples)
    return len(samples) / took


async def open_round(server: Server, rate: float, seconds: float, seed: int) -> list[Sample]:
    """All requests of one round, answered or not."""
    pool, timer = Pool(asked(server), "open", 60.0), Timer(asyncio.get_running_loop())
    await pool.warm(64)
    offsets = schedule(rate, seconds, True, random.Random(seed))
    samples = await open_loop(pool, offsets, numbers(seed), timer)
    pool.close()
    return samples


@dataclass
class Level:
    """One level over all rounds. A round's span goes from its first intended send to its last
    answer."""

    samples: list[Sample] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    capacities: list[float] = field(default_factory=list)
    counted: float = 0.0


def row(times: float, seconds: float, level: Level) -> dict:
    """One level as a row."""
    good = [sample for sample in level.samples if sample.status == 200]
    latencies = [sample.latency for sample in good]
    full, goodput = statistics.fmean(level.capacities), len(good) / sum(level.spans)
    return {
        "times_capacity": times,
        "rounds": len(level.spans),
        "offered_per_second": len(level.samples) / seconds / len(level.spans),
        "requests": len(level.samples),
        "answers_by_status": by_status(level.samples),
        "unanswered": sum(bool(sample.error) for sample in level.samples),
        "answers_counted_by_server": level.counted,
        "capacity_per_second": full,
        "capacity_low": min(level.capacities),
        "capacity_high": max(level.capacities),
        "goodput_per_second": goodput,
        "goodput_of_capacity": goodput / full,
        "latency_p50": quantile(latencies, 0.5),
        "latency_p99": quantile(latencies, 0.99),
        "deadline": DEADLINE,
        "refusal_p99": quantile(
            [s.latency for s in level.samples if s.status == 429] or [0.0], 0.99
        ),
    }


def by_status(samples: list[Sample]) -> dict[str, int]:
    return {
        str(status): count
        for status, count in sorted(Counter(sample.status for sample in samples).items())
    }


def answers(server: Server) -> float:
    """Drawing requests that the server has answered."""
    text = server.get("/metrics")[1].decode()
    name = "http_server_request_duration_seconds_count{"
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(name) and "/v1/images/generations" in line
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def load(seconds: float) -> None:
    """Rounds of all levels in turn, each between two closed loops, so that a drifting machine
    cancels."""
    levels = {times: Level() for times in LEVELS}
    options = (
        "--steps",
        str(STEPS),
        "--deadline",
        f"{DEADLINE}s",
        "--queue",
        str(QUEUE),
        "--threads",
        "1",
    )
    with serving(*options) as server:
        full = asyncio.run(capacity(server, CLOSED_SECONDS))
        for index in range(ROUNDS):
            for times, level in levels.items():
                level.capacities.append(full)
                one_round(server, level, times * full, seconds, 10 * index + int(times))
                full = asyncio.run(capacity(server, CLOSED_SECONDS))
                level.capacities.append(full)
                print(index, times, f"{full:.2f}/s", by_status(level.samples), flush=True)
        rows = [row(times, seconds, level) for times, level in levels.items()]
        more = {
            "resident": server.resident(),
            "recompiles": server.metric("halftime_recompiles_total"),
        }
    written(
        "serve_load", rows, steps=STEPS, queue=QUEUE, ready_seconds=server.ready_seconds, **more
    )
    for each in rows:
        print(each)


def one_round(server: Server, level: Level, rate: float, seconds: float, seed: int) -> None:
    counted = answers(server)
    samples = asyncio.run(open_round(server, rate, seconds, seed))
    level.counted += answers(server) - counted
    level.samples += samples
    level.spans.append(
        max(sample.end for sample in samples) - min(sample.intended for sample in samples)
    )


BARE = """
import sys, time, torch
from halftime import bundled
torch.set_num_threads(1)
pipeline = bundled.load()
pipeline.set_progress_bar_config(disable=True)
for batch in map(int, sys.argv[1:]):
    pipeline(["warm up"] * batch, num_inference_steps=4, guidance_scale=bundled.GUIDANCE)
for prompt in sys.stdin:
    begun = time.perf_counter()
    pipeline(prompt.strip(), num_inference_steps=30, guidance_scale=bundled.GUIDANCE,
             generator=torch.Generator("cpu").manual_seed(1))
    print(time.perf_counter() - begun, flush=True)
"""


@contextlib.contextmanager
def bare_process(*batches: int) -> Iterator[Callable[[], float]]:
    """The call without a server, in a process that waits between calls as a server's worker does;
    timed inside.

    Where `batches` are given it has drawn these once before, as the worker's warm-up does.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, *map(str, batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    asking, answering = process.stdin, process.stdout
    assert asking is not None
    assert answering is not None

    def call() -> float:
        asking.write(PROMPT + "\n")
        asking.flush()
        return float(answering.readline())

    try:
        yield call
    finally:
        process.kill()
        process.wait()


def overhead(pairs: int) -> dict:
    """Seconds of a request over a bare call with the same arguments."""
    from halftime import bundled

    body = {
        "prompt": PROMPT,
        "steps": 30,
        "guidance": bundled.GUIDANCE,
        "seed": 1,
        "output_format": "png",
    }
    with serving("--steps", "30", "--threads", "1") as server, bare_process() as bare:

        def through() -> tuple[float, float]:
            begun = time.perf_counter()
            status, answer = server.post(body)
            took = time.perf_counter() - begun
            assert status == 200
            return took, answer["usage"]["halftime"]["compute_seconds"]

        made = compared(bare, through, pairs)
    with bare_process() as bare, bare_process(1, 2, 4) as warm:
        drawn = bootstrap([warm() - bare() for _ in range(pairs)])
    return made | {
        "batches_before_seconds": drawn.value,
        "batches_low": drawn.low,
        "batches_high": drawn.high,
    }


def compared(bare, through, pairs: int) -> dict:
    dice = random.Random(0)
    for _ in range(3):
        bare(), through()
    alone, served, computed = [], [], []
    for _ in range(pairs):
        for which in dice.sample(("bare", "served"), 2):
            if which == "bare":
                alone.append(bare())
            else:
                took, compute = through()
                served.append(took)
                computed.append(compute)
    differences = [a - b for a, b in zip(served, alone, strict=True)]
    added = bootstrap(differences)
    exact = np.subtract(served, computed)
    return {
        "pairs": pairs,
        "bare_seconds": median(alone),
        "served_seconds": median(served),
        "added_seconds": added.value,
        "added_low": added.low,
        "added_high": added.high,
        "added_of_bare": added.value / median(alone),
        "outside_compute_p50": float(np.median(exact)),
        "outside_compute_p99": float(np.quantile(exact, 0.99)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--only", choices=("load", "overhead"))
    given = parser.parse_args()
    if given.only != "overhead":
        load(given.seconds)
    if given.only != "load":
        made = overhead(given.pairs)
        print(made)
        written("serve_overhead", [made])


if __name__ == "__main__":
    main()
