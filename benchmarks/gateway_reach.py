"""What the instrument can see: its floor, A against A, injected delays, 1,000 requests/s, planted
bugs by name.

Regime: mock upstream with 20 ms delay and the planted proxy (halftime.verbs.gateway.proxy), each a
process of its own on 127.0.0.1; for the row of 1,000 requests/s the generator is pinned to one
core. Ceiling: added = what was injected, send lag = 0.

`asked` of an injected row is the proxy's own median of its holds as they happened; from what is
recovered, what the same proxy adds without a hold is taken off. Prints and writes one row a
question: asked, measured, the bar, reached or not, and the background load meanwhile.

    python benchmarks/gateway_reach.py [--out benchmarks/results/gateway_reach.json] [--requests
    300]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evidence import write
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


def row(
    name: str, asked: object, measured: object, bar: str, reached: bool, result: GatewayResult
) -> dict:
    """One answer, printed as it comes."""
    line = {
        "what": name,
        "asked": asked,
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
    yield row(
        "generator floor, own mock, p50 s",
        0,
        alike.generator.floor.p50,
        "<= 0.00025",
        alike.generator.floor.p50 <= 0.00025,
        alike,
    )
    yield row("direct floor, p50 s", 0, floor, "<= 0.00025", floor <= 0.00025, alike)
    yield row(
        "A/A difference of medians, s", 0, same, "|x| <= 0.00005", abs(same) <= 0.00005, alike
    )
    origin = base.removesuffix("/v1")
    passing = 0.0  # what this proxy costs without a hold
    for hold in (0.0, 0.005, 0.025, 0.035):
        with proxied(origin, f"--hold={hold}") as (url, held):
            found = gateway(replace(plain, through=url))
        recovered = found.rates[0].added.p50 - passing
        if not hold:
            passing = recovered - held[0]
            yield row(
                "the proxy without a hold, added s", 0, passing, "none: the reference", True, found
            )
            continue
        fine = abs(recovered - held[0]) <= 0.0003
        yield row(
            f"injected {1e3 * hold:g} ms, recovered s",
            held[0],
            recovered,
            "error <= 0.0003",
            fine,
            found,
        )
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    fast = gateway(
        replace(plain, requests=100, rates=(1000.0,), arrivals=("constant",), seconds=9.0)
    )
    os.sched_setaffinity(0, cores)
    load = fast.rates[-1]
    fine = not load.saturated and load.send_lag.p99 <= 0.0015 and load.errors == 0
    yield row(
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
        found = gateway(replace(plain, through=url))
    yield named("a new HTTP client per request", "new-client-per-request", found)
    with proxied(origin, "--hold-first=0.025") as (url, _):
        found = gateway(replace(plain, through=url, payload=Payload(stream=True)))
    yield named("first chunk of a stream held 25 ms", "first-chunk-waits", found)
    with proxied(origin, "--serial=0.016") as (url, _):
        found = gateway(replace(plain, through=url, rates=(40.0, 100.0), requests=100, seconds=6.0))
    yield named("16 ms one by one: 62.5 requests/s", "saturated", found)


def named(what: str, finding: str, result: GatewayResult) -> dict:
    """The finding's words, or none."""
    words = next((item.message for item in result.findings if item.id == finding), None)
    return row(what, finding, words, "named", words is not None, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "gateway_reach.json"
    )
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    with spawned(Behaviour(delay=0.02)) as (base, _):
        rows = []
        for answer in answers(base, given.requests):
            rows.append(answer)  # written at once: what was measured before an interruption is kept
            write(given.out, "gateway_reach", {"rows": rows})


if __name__ == "__main__":
    main()
