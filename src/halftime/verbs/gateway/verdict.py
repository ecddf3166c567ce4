"""The result beside a budget and beside a profiled picture."""

from __future__ import annotations

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.records import Session
from halftime.records.gateway import GatewayResult, Load, Share
from halftime.verbs.gateway.evidence import quietest


def with_budget(result: GatewayResult, budget: float) -> GatewayResult:
    """The result with a verdict on the budget, in seconds.

    Kept: the gateway did its job, no load saturates it, and what each adds at p50 is below it with
    its whole interval. Exceeded: some load's interval lies above it. Else it is not decided: the
    interval holds the budget, or the measurement was ended before all of its loads, and
    `within_budget` stays None.
    """
    if result.through is None:
        raise BadInput("--budget needs --through URL: without a gateway nothing is added.")
    levels = [load.best for load in result.rates if load.best]
    broken = any(load.saturated or load.failing for load in result.rates)
    broken = broken or (not levels and not result.interrupted)
    within: bool | None = None
    if broken or not result.did_its_job or any(level.low > budget for level in levels):
        within = False
    elif all(level.high <= budget for level in levels) and not result.stopped:
        within = True
    return msgspec.structs.replace(result, budget=budget, within_budget=within)


def with_session(result: GatewayResult, session: Session) -> GatewayResult:
    """The result with what the gateway adds, as a share of this session's picture."""
    load = quietest(result.rates)
    if load is None or load.best is None:
        raise BadInput("--session needs a load whose added time is known: give --through URL.")
    return msgspec.structs.replace(result, session=share(load, session))


def share(load: Load, session: Session) -> Share:
    """'this gateway adds 35 ms, 1.5 % of your 2.40 s picture, three times your text encoder'."""
    assert load.best is not None
    seconds = load.best.p50
    encoder = session.row("encode_prompt")
    ratio = seconds / encoder.seconds if encoder and encoder.seconds > 0 else None
    of_call = seconds / session.wall_seconds
    if load.best.low <= 0:
        noise = "what this gateway adds cannot be told from noise"
        return Share(sentence=noise, of_call=of_call, of_text_encoder=ratio)
    words = [
        f"this gateway adds {units.seconds(seconds)}",
        f"{units.share(of_call)} of your {units.seconds(session.wall_seconds)} picture",
    ]
    if encoder is not None and ratio is not None:
        words.append(f"{units.ratio(ratio)} your text encoder's {units.seconds(encoder.seconds)}")
    return Share(sentence=", ".join(words), of_call=of_call, of_text_encoder=ratio)
