"""Why a measurement may be wrong: the machine, the generator, the upstream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from halftime.base import units
from halftime.base.errors import HalftimeError
from halftime.records.gateway import Generator, Load
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.failures import DIRECT, FAILING_SHARE, failures
from halftime.verbs.gateway.settings import GatewaySettings

NOISY_CORES = 0.25  # kept busy by other processes; above it the report doubts itself
LAG_LIMIT = 0.0015  # seconds; above it the generator's own lateness is a doubt
_BLOCK_IN_LATENCIES = 9.0  # times one request that --duration needs, to tell a queue


def doubts(
    loads: Sequence[Load], generator: Generator | None, settings: GatewaySettings
) -> Iterator[str]:
    """A sentence each. Raises HalftimeError where others kept more cores busy than is allowed."""
    noisy = max(item.background_cores for item in loads)
    text = f"other processes kept {noisy:.1f} cores busy; quieten the machine and run again"
    if settings.max_background is not None and noisy > settings.max_background:
        raise HalftimeError(
            f"refused: {text}, or raise --max-background ({settings.max_background:g} cores)."
        )
    if noisy > NOISY_CORES:
        yield text + "."
    yield from _of_the_generator(generator) if generator else ()
    if settings.through and settings.http2 in ("direct", "through"):
        yield (
            f"{settings.http2} was asked in HTTP/2 and the other way in HTTP/1.1: what HTTP/2 "
            "costs this client (about 0.1 ms a request) is in the difference."
        )
    if any(item.direct_saturated for item in loads):
        yield (
            "the upstream itself was saturated at some rate, so the gateway's limit is not "
            "known there; lower --rate."
        )
    upstream_fails = failures(loads, DIRECT)
    if settings.through and upstream_fails.share > FAILING_SHARE:
        yield (
            f"{upstream_fails.sentence()}: the upstream itself fails; only requests answered both "
            "ways are compared."
        )
    yield from (f"ended early: {load.cut}." for load in loads if load.cut)
    unclear = next((load for load in loads if load.unclear), None)
    if unclear is not None:
        latency = max(arm.p50 for arm in (loads[0].direct, loads[0].through) if arm)
        yield (
            f"blocks of {units.seconds(settings.seconds / 3)} are too short to tell a queue from "
            f"requests that take {units.seconds(latency)}; --duration "
            f"{units.seconds(_BLOCK_IN_LATENCIES * latency)} or more would do."
        )
    pairs = loads[0].requests // (2 if settings.through else 1)
    if pairs < 100:
        yield (
            f"p99 of {pairs} sequential pairs is next to their maximum; raise --requests or "
            "--sequential-time."
        )


def dead_addresses(pools: Sequence[Pool]) -> Iterator[str]:
    """Of a name that has others, which are measured."""
    for pool in pools:
        if pool.dead:
            yield (
                f"of the addresses of {pool.endpoint.host} {', '.join(pool.dead)} did not answer: "
                f"{pool.arm} is measured at another one, while clients that try them in order wait "
                "there for each new connection."
            )


def _of_the_generator(generator: Generator) -> Iterator[str]:
    if generator.send_lag_p99 and generator.send_lag_p99 > LAG_LIMIT:
        yield (
            f"requests left up to {units.seconds(generator.send_lag_p99)} (p99) after their time: "
            "the generator was late, and that is in the latencies. Lower --rate, or give it its "
            "own core."
        )
    if generator.headroom is not None and generator.headroom < 2:
        yield f"the generator can send only {generator.max_rate:.0f} requests/s; lower --rate."
