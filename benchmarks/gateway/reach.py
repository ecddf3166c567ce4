"""What the instrument can see: its floor, A/A, injected delays, 1,000 requests/s, planted bugs.

Regime: mock upstream with 20 ms delay and the planted proxy (halftime.verbs.gateway.proxy), each a
process of its own on 127.0.0.1; for the row of 1,000 requests/s the generator is pinned to one
core. Ceiling: added = what was injected, send lag = 0.

`asked` of an injected row is the proxy's own median of its holds as they happened; from what is
recovered, what the same proxy adds without a hold is taken off. Prints and writes one row a
question: asked, measured, the bar, reached or not, and the background load meanwhile.

    python -m benchmarks.gateway.reach [--requests 300] --out benchmarks/results/gateway_reach.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.frame import Frame
from halftime.records.gateway import GatewayResult
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned


@contextmanager
def proxied(to: str, *faults: str) -> Iterator[tuple[str, list[float]]]:
    """A planted proxy in front of `to`: its URL, and after the block the median hold as it
    happened."""
    command = [sys.executable, "-m", "halftime.verbs.gateway.proxy", "--to", to, *faults]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    held: list[float] = []
    try:
        yield process.stdout.readline().split()[-1] + "/v1", held
    finally:
        process.terminate()
        held.append(float(process.stdout.read().split()[-1]))
        process.wait()


def row_of(
    question: str,
    injected: object,
    measured: object,
    bar: str,
    reached: bool,
    result: GatewayResult,
) -> dict:
    """One answer, printed as it comes."""
    line = {
        "what": question,
        "asked": injected,
        "measured": measured,
        "bar": bar,
        "reached": reached,
        "background_cores": round(max(load.background_cores for load in result.rates), 2),
    }
    print(json.dumps(line), flush=True)
    return line


def answers(base: str, requests: int) -> Iterator[dict]:
    """All questions in turn."""
    plain = GatewaySettings(direct=base, requests=requests, concurrency=0)
    alike = gateway(replace(plain, through=base))
    floor, same = alike.rates[0].truth.floor.p50, alike.rates[0].added.p50
    yield row_of(
        "generator floor, own mock, p50 s",
        0,
        alike.generator.floor.p50,
        "<= 0.00025",
        alike.generator.floor.p50 <= 0.00025,
        alike,
    )
    yield row_of("direct floor, p50 s", 0, floor, "<= 0.00025", floor <= 0.00025, alike)
    yield row_of(
        "A/A difference of medians, s", 0, same, "|x| <= 0.00005", abs(same) <= 0.00005, alike
    )
    origin = base.removesuffix("/v1")
    passing = 0.0  # what this proxy costs without a hold
    for hold in (0.0, 0.005, 0.025, 0.035):
        with proxied(origin, f"--hold={hold}") as (url, held):
            proxied_result = gateway(replace(plain, through=url))
        recovered = proxied_result.rates[0].added.p50 - passing
        if not hold:
            passing = recovered - held[0]
            yield row_of(
                "the proxy without a hold, added s",
                0,
                passing,
                "none: the reference",
                True,
                proxied_result,
            )
            continue
        fine = abs(recovered - held[0]) <= 0.0003
        yield row_of(
            f"injected {1e3 * hold:g} ms, recovered s",
            held[0],
            recovered,
            "error <= 0.0003",
            fine,
            proxied_result,
        )
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    fast = gateway(
        replace(plain, requests=100, rates=(1000.0,), arrivals=("constant",), seconds=9.0)
    )
    os.sched_setaffinity(0, cores)
    load = fast.rates[-1]
    fine = not load.saturated and load.send_lag.p99 <= 0.0015 and load.errors == 0
    yield row_of(
        "1,000 requests/s on one core, send lag p99 s",
        1000,
        load.send_lag.p99,
        "<= 0.0015, held",
        fine,
        fast,
    )
    yield from planted(plain, origin)


def planted(plain: GatewaySettings, origin: str) -> Iterator[dict]:
    """Each planted bug, and whether it is named."""
    with proxied(origin, "--new-client") as (url, _):
        result = gateway(replace(plain, through=url))
    yield named("a new HTTP client per request", "new-client-per-request", result)
    with proxied(origin, "--hold-first=0.025") as (url, _):
        result = gateway(replace(plain, through=url, payload=Payload(stream=True)))
    yield named("first chunk of a stream held 25 ms", "first-chunk-waits", result)
    with proxied(origin, "--serial=0.016") as (url, _):
        result = gateway(
            replace(plain, through=url, rates=(40.0, 100.0), requests=100, seconds=6.0)
        )
    yield named("16 ms one by one: 62.5 requests/s", "saturated", result)


def named(question: str, finding: str, result: GatewayResult) -> dict:
    """The finding's words, or none."""
    words = next((item.message for item in result.findings if item.id == finding), None)
    return row_of(question, finding, words, "named", words is not None, result)


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--requests", type=int, default=300)
    options = frame.parse()
    with spawned(Behaviour(delay=0.02)) as (base, _):
        rows = []
        for row in answers(base, options.requests):
            rows.append(row)  # written at once: an interruption loses nothing
            frame.write({"rows": rows})


if __name__ == "__main__":
    main()
