"""Open-loop load on `halftime serve`: what it answers at 0.5, 1, 2 and 5 times its capacity.

Regime: the bundled model, one thread, few steps (STEPS), one machine for server, worker and
generator. Capacity is what a closed loop of CLOSED workers completes just before and just after
(the mean: the machine drifts). In rounds, Poisson arrivals at 0.5, 1, 2 and 5 times capacity are
sent on schedule whatever happened to those before; latency counts from the intended send. Ceiling:
goodput = min(offered, capacity).

    python -m benchmarks.serve.load [--seconds 8] --out benchmarks/results/serve_load.json
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.frame import Frame
from benchmarks.serve.process import Server, serving
from halftime.base.stats import quantile
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.endpoint import Endpoint, Payload, endpoint
from halftime.verbs.gateway.load import closed, numbers, open_loop, schedule
from halftime.verbs.gateway.timer import Timer

STEPS, DEADLINE, QUEUE, CLOSED = 4, 5.0, 16, 6
LEVELS = (0.5, 1.0, 2.0, 5.0)
ROUNDS, CLOSED_SECONDS = 3, 4.0
BODY = '{"prompt": "a flat icon of a kite, {id}", "steps": 4, "seed": 1}'


def drawing(server: Server) -> Endpoint:
    """One drawing request, as bytes."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(BODY)
        file.flush()
        return endpoint(f"{server.address}/v1/images/generations", Payload(kind=file.name))


async def capacity(server: Server, seconds: float) -> float:
    """Pictures a second that a closed loop completes."""
    pool = Pool(drawing(server), "closed", 60.0)
    await closed(pool, CLOSED, 0.5, numbers(0))
    begun = time.monotonic()
    samples = await closed(pool, CLOSED, seconds, numbers(1))
    took = time.monotonic() - begun
    pool.close()
    assert all(sample.ok for sample in samples)
    return len(samples) / took


async def open_round(server: Server, rate: float, seconds: float, seed: int) -> list[Sample]:
    """All requests of one round, answered or not."""
    pool, timer = Pool(drawing(server), "open", 60.0), Timer(asyncio.get_running_loop())
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


def row_of(times: float, seconds: float, level: Level) -> dict:
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


def load(seconds: float) -> dict[str, object]:
    """Rounds of all levels in turn, each between two closed loops, so that a drifting machine
    cancels."""
    levels = {times: Level() for times in LEVELS}
    options = f"--steps {STEPS} --deadline {DEADLINE}s --queue {QUEUE} --threads 1"
    with serving(*options.split()) as server:
        full = asyncio.run(capacity(server, CLOSED_SECONDS))
        for index in range(ROUNDS):
            for times, level in levels.items():
                level.capacities.append(full)
                one_round(server, level, times * full, seconds, 10 * index + int(times))
                full = asyncio.run(capacity(server, CLOSED_SECONDS))
                level.capacities.append(full)
                print(index, times, f"{full:.2f}/s", by_status(level.samples), flush=True)
        return {
            "steps": STEPS,
            "queue": QUEUE,
            "ready_seconds": server.ready_seconds,
            "resident": server.resident(),
            "recompiles": server.metric("halftime_recompiles_total"),
            "rows": [row_of(times, seconds, level) for times, level in levels.items()],
        }


def one_round(server: Server, level: Level, rate: float, seconds: float, seed: int) -> None:
    counted = answers(server)
    samples = asyncio.run(open_round(server, rate, seconds, seed))
    level.counted += answers(server) - counted
    level.samples += samples
    level.spans.append(
        max(sample.end for sample in samples) - min(sample.intended for sample in samples)
    )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--seconds", type=float, default=8.0)
    options = frame.parse()
    result = load(options.seconds)
    for row in result["rows"]:
        print(row)
    frame.write(result)


if __name__ == "__main__":
    main()
