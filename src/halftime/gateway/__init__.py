"""`gateway`: what does the proxy in front cost? Both ways in one run, shuffled and interleaved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.verbs import callable_package

if TYPE_CHECKING:
    from halftime.gateway.run import Settings as Settings
    from halftime.records.gateway import GatewayResult

__all__ = ["gateway"]


def gateway(direct: str, through: str | None = None, **settings: object) -> GatewayResult:
    """Measure what the gateway at `through` adds to the endpoint at `direct`.

    `settings` are the fields of `halftime.gateway.run.Settings`. Raises BadInput for endpoints that do not answer,
    MissingExtra without `halftime[gateway]`, HalftimeError where the machine was noisier than allowed.
    """
    from halftime.gateway.run import Settings
    from halftime.gateway.run import gateway as measure

    return measure(Settings(direct=direct, through=through, **settings))  # type: ignore[arg-type]


callable_package(__name__, gateway)
