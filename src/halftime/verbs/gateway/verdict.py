"""The result beside a budget and beside a profiled picture."""

from __future__ import annotations

import msgspec

from halftime.base import units
from halftime.base.errors import BadInput
from halftime.records import Session
from halftime.records.gateway import GatewayResult, Load, Share
from halftime.verbs.gateway.findings import quietest


def with_budget(result: GatewayResult, budget: float) -> GatewayResult:
    """Within budget: no load adds more than it at p50, saturates the gateway, or fails more than it
    may."""
    if result.through is None:
        raise BadInput("--budget needs --through URL: without a gateway nothing is added.")
    worst = max((load.added.p50 for load in result.rates if load.added), default=None)
    fine = (
        worst is not None
        and worst <= budget
        and not any(load.saturated or load.failing for load in result.rates)
    )
    return msgspec.structs.replace(result, budget=budget, within_budget=fine)


def with_session(result: GatewayResult, session: Session) -> GatewayResult:
    """Say what the gateway is to a picture of this session."""
    load = quietest(result.rates)
    if load is None or load.added is None:
        raise BadInput("--session needs a load whose added time is known: give --through URL.")
    return msgspec.structs.replace(result, session=share(load, session))


def share(load: Load, session: Session) -> Share:
    """'this gateway adds 35 ms, 1.5 % of your 2.40 s picture, three times your text encoder'."""
    assert load.added is not None
    seconds = load.added.p50
    encoder = session.row("encode_prompt")
    times = seconds / encoder.seconds if encoder and encoder.seconds > 0 else None
    of_call = seconds / session.wall_seconds
    if load.added.low <= 0:
        noise = "this gateway adds nothing that can be told from noise"
        return Share(sentence=noise, of_call=of_call, of_text_encoder=times)
    words = [
        f"this gateway adds {units.seconds(seconds)}",
        f"{units.share(of_call)} of your {units.seconds(session.wall_seconds)} picture",
    ]
    if times is not None:
        words.append(
            f"{units.ratio(times)} your text encoder's "
            f"{units.seconds(encoder.seconds if encoder else None)}"
        )
    return Share(sentence=", ".join(words), of_call=of_call, of_text_encoder=times)
