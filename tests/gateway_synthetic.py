"""Records of a gateway's measurement whose truth is known."""

from __future__ import annotations

import msgspec

from halftime.records.gateway import (
    Added,
    GatewayResult,
    Generator,
    Load,
    PayloadFacts,
    Percentiles,
    Truth,
)


def level(value: float) -> Percentiles:
    return Percentiles(p50=value, p95=value, p99=value)


def plus(value: float) -> Added:
    names = ("p50", "p95", "p99", "low", "high", "p95_low", "p95_high", "p99_low", "p99_high")
    return Added(**dict.fromkeys(names, value))


def truth(request: float = 0.002, response: float = 0.001, **fields: object) -> Truth:
    measured = Truth(
        matched=200,
        floor=level(2e-4),
        overhead=level(request + response + 2e-4),
        added=plus(request + response),
        request_path=request,
        response_path=response,
        first_chunk_path=response,
        last_chunk_path=response,
        first_chunk_low=response,
        connections=1,
        requests=100,
    )
    return msgspec.structs.replace(measured, **fields)


def load(added: float = 0.003, **fields: object) -> Load:
    measured = Load(
        mode="sequential",
        direct=level(0.02),
        through=level(0.02 + added),
        added=plus(added),
        requests=200,
        ttft_added=added,
        truth=truth(added * 2 / 3, added / 3),
    )
    return msgspec.structs.replace(measured, **fields)


def result(*loads: Load, through: str | None = "http://127.0.0.1:2/v1") -> GatewayResult:
    return GatewayResult(
        direct="http://127.0.0.1:1/v1",
        through=through,
        method="mock log",
        rates=loads,
        payload=PayloadFacts(kind="chat", request_bytes=300),
        generator=Generator(floor=level(5e-5), max_rate=2e4),
    )
