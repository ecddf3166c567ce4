"""What the instrument can see: its floor, A/A, injected delays, 1,000 requests/s, planted bugs.

Regime: mock upstream with 20 ms delay and a planted proxy (halftime.testing.proxies), each a
process of its own on 127.0.0.1; for the row of 1,000 requests/s the generator is pinned to one
core. Ceiling: added = what was injected, send lag = 0.

`asked` of an injected row is the proxy's own median of its holds as they happened; from what is
recovered, what the same proxy adds with a hold of no time, right before it, is taken off. Each is
the median of so many rounds. Prints and writes one row a question: asked, measured, the bar,
reached or not, and the background load meanwhile.

    python -m benchmarks.gateway.reach [--requests 300] [--rounds 3]
        --out benchmarks/results/gateway_reach.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.frame import Frame
from benchmarks.gateway.processes import planted
from halftime.base.stats import median
from halftime.records.gateway import GatewayResult
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned


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


def exact(
    settings: GatewaySettings, origin: str, hold: float
) -> tuple[float, float, GatewayResult]:
    """What is added by the mock's log, the hold as it happened, and the whole result."""
    with planted("holds-requests", origin, f"--seconds={hold}") as (url, held):
        result = gateway(replace(settings, through=url))
    return result.rates[0].truth.added.p50, held[0], result


def injected(
    settings: GatewaySettings, origin: str, hold: float, rounds: int
) -> tuple[dict, list[float]]:
    """One delay, and what the proxy itself adds in each round."""
    passing, recovered, holds = [], [], []
    for _ in range(rounds):
        without, waited, _ = exact(settings, origin, 0.0)
        added, held, result = exact(settings, origin, hold)
        passing.append(without - waited)
        recovered.append(added - passing[-1])
        holds.append(held)
    error = median([value - held for value, held in zip(recovered, holds, strict=True)])
    row = row_of(
        f"injected {1e3 * hold:g} ms, recovered s",
        median(holds),
        median(holds) + error,
        f"error <= {INJECTED:g}",
        abs(error) <= INJECTED,
        result,
    )
    return row, passing


INJECTED = 0.00002  # seconds, on a quiet machine


def answers(base: str, requests: int, rounds: int) -> Iterator[dict]:
    """All questions in turn."""
    plain = GatewaySettings(direct=base, requests=requests, concurrency=0)
    alike = gateway(replace(plain, through=base))
    floor, same = alike.rates[0].truth.floor.p50, alike.rates[0].truth.added.p50
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
        "A/A difference of medians, s", 0, same, "|x| <= 0.00002", abs(same) <= 0.00002, alike
    )
    origin = base.removesuffix("/v1")
    passing: list[float] = []
    for hold in (0.005, 0.025, 0.035):
        row, added = injected(plain, origin, hold, rounds)
        passing += added
        yield row
    yield row_of(
        "the proxy without a hold, added s", 0, median(passing), "none: the reference", True, alike
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
    yield from named_faults(plain, origin)


def named_faults(plain: GatewaySettings, origin: str) -> Iterator[dict]:
    """Each planted bug, and whether it is named."""
    with planted("new-clients", origin) as (url, _):
        result = gateway(replace(plain, through=url))
    yield named("a new HTTP client per request", "new-client-per-request", result)
    with planted("holds-first-chunk", origin) as (url, _):
        result = gateway(replace(plain, through=url, payload=Payload(stream=True)))
    yield named("first chunk of a stream held 25 ms", "first-chunk-waits", result)
    with planted("queues", origin) as (url, _):
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
    frame.parser.add_argument("--rounds", type=int, default=3)
    options = frame.parse()
    with spawned(Behaviour(delay=0.02)) as (base, _):
        rows = []
        for row in answers(base, options.requests, options.rounds):
            rows.append(row)  # written at once: an interruption loses nothing
            frame.write({"rows": rows})


if __name__ == "__main__":
    main()
