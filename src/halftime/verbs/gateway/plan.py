"""What a measurement will send, before it sends anything: an upstream may be paid for."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from halftime.base import units
from halftime.base.version import version
from halftime.records.gateway import GatewayPlan, PlannedLoad
from halftime.verbs.gateway.endpoint import MAX_TOKENS, shown
from halftime.verbs.gateway.settings import GatewaySettings, arms_of

FIRST_REQUESTS = 4  # of each arm, before the first load
# to an upstream that is neither on this machine nor in a private network, where nothing is set
MOST_ABROAD = 2_000
_CHARACTERS_A_TOKEN = 4.0  # of English; an estimate, and said to be one


class Tariff(NamedTuple):
    """Dollars for a million tokens in and out, or for a request."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    request: float = 0.0


def plan_of(settings: GatewaySettings, tariff: Tariff | None = None) -> GatewayPlan:
    """Raises BadInput and BadFile for what could not be sent."""
    arms = arms_of(settings)
    loads = tuple(_loads(settings, len(arms)))
    counts = [load.requests for load in loads]
    bounded = settings.max_requests is not None or None not in counts
    total = sum(count or 0 for count in counts)
    if settings.max_requests is not None:
        total = settings.max_requests if None in counts else min(total, settings.max_requests)
    tokens = _tokens(settings, arms[0][1].request_bytes)
    return GatewayPlan(
        halftime=version(),
        direct=shown(settings.direct),
        through=shown(settings.through) if settings.through else None,
        loads=loads,
        requests=total,
        bounded=bounded,
        request_bytes=arms[0][1].request_bytes,
        input_tokens=tokens[0] * total if tokens else None,
        output_tokens=tokens[1] * total if tokens else None,
        dollars=_dollars(tariff, total, tokens) if tariff else None,
    )


def _loads(settings: GatewaySettings, arms: int) -> Iterator[PlannedLoad]:
    seconds = settings.seconds
    yield PlannedLoad(name="first requests", requests=FIRST_REQUESTS * arms)
    yield PlannedLoad(
        name="one at a time",
        requests=settings.requests * arms,
        seconds=settings.sequential_seconds,
    )
    if settings.concurrency:
        name = f"closed loop, {settings.concurrency} at once"
        yield PlannedLoad(name=name, requests=None, seconds=seconds * arms)
    for rate in settings.rates:
        for arrival in settings.arrivals:
            count = math.ceil(rate * seconds) * arms
            yield PlannedLoad(name=f"{rate:g}/s {arrival}", requests=count, seconds=seconds * arms)
    if settings.knee:
        yield PlannedLoad(name="search for the knee", requests=None)


def _tokens(settings: GatewaySettings, size: int) -> tuple[float, float] | None:
    """Of one request, in and out; None where it is not text that is sent."""
    if settings.target != "openai" or settings.payload.kind != "chat":
        return None
    return size / _CHARACTERS_A_TOKEN, float(MAX_TOKENS)


def _dollars(tariff: Tariff, total: int, tokens: tuple[float, float] | None) -> float:
    tokens_in, tokens_out = tokens or (0.0, 0.0)
    by_token = (tariff.tokens_in * tokens_in + tariff.tokens_out * tokens_out) / 1e6
    return total * (tariff.request + by_token)


def sentence(plan: GatewayPlan) -> str:
    """'Sends at most 4,216 requests to http://…'."""
    ways = f"{plan.direct} and {plan.through}" if plan.through else plan.direct
    open_ended = [load.name for load in plan.loads if load.requests is None]
    words = f"sends at most {units.count(plan.requests)} requests to {ways}"
    if not plan.bounded:
        words = (
            f"sends {units.count(plan.requests)} requests to {ways}, and as many as are answered "
            f"in the {' and the '.join(open_ended)} (--max-requests bounds them)"
        )
    if plan.input_tokens is not None:
        words += (
            f"; about {units.count(plan.input_tokens)} tokens in and at most "
            f"{units.count(plan.output_tokens)} out"
        )
    return words + (f"; about ${plan.dollars:,.2f}" if plan.dollars is not None else "")


def is_near(url: str) -> bool:
    """On this machine or in a private network, by its name: nobody is paid for it."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host or host.endswith((".local", ".internal"))
