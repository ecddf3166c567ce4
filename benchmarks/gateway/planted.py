"""Every planted proxy (halftime.testing.FAULTS): what is measured of it, and what it is called.

Regime: mock upstream with 20 ms delay, streams of 8 chunks 10 ms apart, and the proxy, each a
process of its own on 127.0.0.1; 60 sequential pairs, and a closed loop of 8 in three short blocks.
Ceiling: each is named by its own finding, the verdict is no wherever the gateway did not do its
job, and a time is measured as long as the proxy's own record of its holds says.

Prints and writes one row a proxy: planted, measured, named, the verdict, reached or not, and the
background load meanwhile; `--only` renews some rows. A time counts as reached within a tenth, or
0.3 ms where that is more, beyond what the proxy without a fault adds.

    python -m benchmarks.gateway.planted [--only redirects,caches]
        --out benchmarks/results/gateway_planted.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.frame import Frame
from benchmarks.gateway.processes import planted
from halftime.cli.gateway import _exit_code
from halftime.records.gateway import GatewayResult
from halftime.testing import FAULTS, PlantedFault
from halftime.verbs.gateway.endpoint import Payload
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.run import GatewaySettings, gateway
from halftime.verbs.gateway.upstream import spawned

PLAIN = GatewaySettings("", requests=60, concurrency=8, seconds=1.5, timeout=1.0)
TIMED = {  # the finding whose seconds are the hold itself
    "request-held",
    "answer-held",
    "some-held",
    "first-chunk-waits",
    "chunks-late",
    "stream-stalls",
}
OWN = {  # settings of those that need others
    "queues": {"rates": (40.0, 100.0), "arrivals": ("constant",), "seconds": 4.5, "timeout": 30.0},
    "dies": {"concurrency": 0},
    "stalls-streams": {"requests": 80},
}
WITHIN, WITHIN_SECONDS = 0.1, 0.0003
VERDICTS = {0: "yes", 1: "no"}


def settings_for(name: str, fault: PlantedFault, direct: str, through: str) -> GatewaySettings:
    size = 1_000_000 if fault.early else 20_000
    payload = Payload("image-in", size) if fault.picture else Payload(stream=fault.stream)
    plain = replace(PLAIN, direct=direct, through=through, payload=payload)
    if fault.stream:
        plain = replace(plain, requests=40, concurrency=0)
    return replace(plain, **OWN.get(name, {}))


def row_of(
    name: str, result: GatewayResult, held: float, passing: dict[bool, float]
) -> dict[str, object]:
    """One proxy, judged."""
    fault = FAULTS[name]
    named = {finding.id: finding for finding in result.findings}
    finding = named.get(fault.finding)
    verdict = VERDICTS.get(_exit_code(result), "undecided")
    best = result.rates[0].best
    measured = finding.seconds if finding else best.p50 if best else None
    asked = held if fault.finding in TIMED else None
    right = verdict == ("yes" if fault.does_its_job else "no")
    right = right and (finding is not None if fault.finding else not named)
    if asked is not None and measured is not None:
        excess = measured - asked - passing.get(fault.stream, 0.0)
        right = right and abs(excess) <= max(WITHIN_SECONDS, WITHIN * asked)
    return {
        "what": name,
        "does": fault.does,
        "asked": asked,
        "share": fault.share,
        "measured": measured,
        "named": fault.finding if finding else "",
        "says": finding.message if finding else "",
        "also": sorted(named.keys() - {fault.finding, "errors"}),
        "verdict": verdict,
        "reasons": [reason for reason in (result.failing, *result.broken) if reason],
        "reached": right,
        "background_cores": round(max(load.background_cores for load in result.rates), 2),
    }


def rows(base: str, names: Sequence[str]):
    """All proxies in turn. Those that pass everything on come first, as the others' reference."""
    passing: dict[bool, float] = {}
    origin = base.removesuffix("/v1")
    for name in names:
        with planted(name, origin) as (through, held):
            result = gateway(settings_for(name, FAULTS[name], base, through))
        best = result.rates[0].best
        if name == "none" and best:
            passing = dict.fromkeys((False, True), best.p50 / 2)  # either path has its half
        row = row_of(name, result, held[0], passing)
        print(json.dumps(row), flush=True)
        yield row


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--only", default=",".join(FAULTS))
    options = frame.parse()
    names = options.only.split(",")
    earlier = {row["what"]: row for row in frame.earlier().get("rows", ())}
    finished = {name: row for name, row in earlier.items() if name in FAULTS}
    with spawned(Behaviour(delay=0.02, chunks=8, gap=0.01)) as (base, _):
        for row in rows(base, names):
            finished[str(row["what"])] = row  # written at once: an interruption loses nothing
            frame.write({"rows": [finished[name] for name in FAULTS if name in finished]})


if __name__ == "__main__":
    main()
