"""Open-loop load on `halftime serve`, and what the server costs over a bare pipeline call.

Regime: the bundled model, one thread, few steps (STEPS), one machine for server, worker and generator. Capacity is what
a closed loop of CLOSED workers completes just before and just after a level (their mean: the machine drifts). Poisson
arrivals at 0.5, 1, 2 and 5 times capacity are sent on schedule whatever happened to those before; latency counts from
the intended send. Ceiling: goodput = min(offered, capacity).

Overhead: pairs of one bare call in this process and one request, shuffled, 30 steps, one thread each; and, exactly,
what the client waited less what the worker computed.

    python benchmarks/serve_load.py [--seconds 20] [--pairs 40]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time

import numpy as np

from halftime.gateway.client import Pool, Sample
from halftime.gateway.endpoint import Endpoint, Payload, endpoint
from halftime.gateway.load import closed, numbers, open_loop, schedule
from halftime.gateway.timer import Timer
from halftime.stats import bootstrap, median, quantile
from serve_process import Server, serving, written

STEPS, DEADLINE, QUEUE, CLOSED = 4, 5.0, 16, 6
LEVELS = (0.5, 1.0, 2.0, 5.0)
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
    await closed(pool, CLOSED, 2.0, numbers(0))
    begun = time.monotonic()
    samples = await closed(pool, CLOSED, seconds, numbers(1))
    took = time.monotonic() - begun
    pool.close()
    assert all(sample.ok for sample in samples)
    return len(samples) / took


async def level(server: Server, rate: float, seconds: float, seed: int) -> list[Sample]:
    """All requests of one level, answered or not."""
    pool, timer = Pool(asked(server), "open", 60.0), Timer(asyncio.get_running_loop())
    await pool.warm(64)
    offsets = schedule(rate, seconds, True, random.Random(seed))
    samples = await open_loop(pool, offsets, numbers(seed), timer)
    pool.close()
    return samples


def row(times: float, full: float, seconds: float, samples: list[Sample], counted: float) -> dict:
    """One level as a row; `counted` is how many answers the server says that it gave."""
    good = [sample for sample in samples if sample.status == 200]
    latencies = [sample.latency for sample in good]
    statuses = {
        str(status): sum(sample.status == status for sample in samples) for status in {s.status for s in samples}
    }
    # Those sent in the window count although they end after it: what is offered and what is good are of one schedule,
    # over the time until the last of them is answered.
    span = max(sample.end for sample in samples) - min(sample.intended for sample in samples)
    return {
        "times_capacity": times,
        "offered_per_second": len(samples) / seconds,
        "requests": len(samples),
        "answers_by_status": dict(sorted(statuses.items())),
        "unanswered": sum(bool(sample.error) for sample in samples),
        "answers_counted_by_server": counted,
        "goodput_per_second": len(good) / span,
        "goodput_of_capacity": len(good) / span / full,
        "latency_p50": quantile(latencies, 0.5),
        "latency_p99": quantile(latencies, 0.99),
        "deadline": DEADLINE,
        "refusal_p99": quantile([s.latency for s in samples if s.status == 429] or [0.0], 0.99),
    }


def answers(server: Server) -> float:
    """Drawing requests that the server has answered."""
    text = server.get("/metrics")[1].decode()
    name = "http_server_request_duration_seconds_count{"
    lines = [line for line in text.splitlines() if line.startswith(name) and "/v1/images/generations" in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def load(seconds: float) -> list[dict]:
    rows = []
    options = ("--steps", str(STEPS), "--deadline", f"{DEADLINE}s", "--queue", str(QUEUE), "--threads", "1")
    with serving(*options) as server:
        full = asyncio.run(capacity(server, seconds / 3))
        print(f"capacity {full:.2f} pictures/s at {STEPS} steps; ready in {server.ready_seconds:.1f} s", flush=True)
        for index, times in enumerate(LEVELS):
            before, counted = full, answers(server)
            samples = asyncio.run(level(server, times * full, seconds, index + 2))
            counted = answers(server) - counted
            full = asyncio.run(capacity(server, seconds / 3))
            made = row(times, (before + full) / 2, seconds, samples, counted)
            made |= {"capacity_before": before, "capacity_after": full, "resident": server.resident(),
                     "recompiles": server.metric("halftime_recompiles_total")}  # fmt: skip
            print(made, flush=True)
            rows.append(made)
            written("serve_load", rows, steps=STEPS, queue=QUEUE, ready_seconds=server.ready_seconds)
    return rows


def overhead(pairs: int) -> dict:
    """Seconds of a request over a bare call with the same arguments."""
    import torch

    from halftime import bundled

    torch.set_num_threads(1)
    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)

    def bare() -> float:
        begun = time.perf_counter()
        pipeline(PROMPT, num_inference_steps=30, guidance_scale=bundled.GUIDANCE,
                 generator=torch.Generator("cpu").manual_seed(1))  # fmt: skip
        return time.perf_counter() - begun

    with serving("--steps", "30", "--threads", "1") as server:
        body = {"prompt": PROMPT, "steps": 30, "guidance": bundled.GUIDANCE, "seed": 1, "output_format": "png"}

        def through() -> tuple[float, float]:
            begun = time.perf_counter()
            status, answer = server.post(body)
            took = time.perf_counter() - begun
            assert status == 200
            return took, answer["usage"]["halftime"]["compute_seconds"]

        return compared(bare, through, pairs)


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
    parser.add_argument("--seconds", type=float, default=20.0)
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
