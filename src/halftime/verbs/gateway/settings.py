"""What to measure and how."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from halftime.records.gateway import Http2, Mode
from halftime.verbs.gateway.analysis import Limits
from halftime.verbs.gateway.client import POLL_SECONDS
from halftime.verbs.gateway.endpoint import Endpoint, Payload, Trust, endpoint, usual_key


@dataclass(frozen=True)
class GatewaySettings:
    """What to measure and how: two ways to one upstream, and the loads."""

    direct: str
    through: str | None = None
    payload: Payload = field(default_factory=Payload)
    target: str = "openai"
    requests: int = 200  # sequential pairs at most
    sequential_seconds: float = 60.0  # for a slow upstream, fewer
    concurrency: int = 8  # closed loop; 0 leaves it out
    rates: tuple[float, ...] = ()
    arrivals: tuple[Mode, ...] = ("constant", "poisson")
    seconds: float = 6.0  # of each arm at each level
    timeout: float = 30.0
    key_env: str | None = None
    through_key_env: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    through_headers: dict[str, str] = field(default_factory=dict)
    overhead_header: str = "x-litellm-overhead-duration-ms"
    ca_file: str | None = None
    pid: int | None = None
    max_background: float | None = None
    seed: int = 0
    insecure: bool = False
    client_cert: str | None = None
    client_key: str | None = None
    through_model: str | None = None  # where the gateway calls it something else
    max_requests: int | None = None  # over both arms, jobs' questions included
    within: Limits = field(default_factory=Limits)  # for goodput
    knee: bool = False  # search for the highest rate that is held
    poll: float = POLL_SECONDS  # between two questions after a job
    http2: Http2 | None = None  # whom to ask in HTTP/2; else in HTTP/1.1

    @property
    def trust(self) -> Trust:
        """Of both arms."""
        return Trust(self.ca_file, self.insecure, self.client_cert, self.client_key)


def arms_of(settings: GatewaySettings) -> list[tuple[str, Endpoint]]:
    """The arms: name and endpoint, the direct one first.

    Raises BadInput and BadFile for what cannot be sent.
    """
    payload, key = settings.payload, settings.key_env or usual_key(settings.direct)
    arms = [("direct", settings.direct, payload, key, settings.headers)]
    if settings.through:
        key = settings.through_key_env or key
        payload = replace(payload, model=settings.through_model or payload.model)
        headers = settings.headers | settings.through_headers
        arms.append(("through", settings.through, payload, key, headers))
    return [
        (
            name,
            endpoint(
                url,
                payload,
                settings.target,
                key_env=key,
                headers=headers,
                overhead_header=settings.overhead_header,
                trust=settings.trust,
                http2=settings.http2 in (name, "both"),
            ),
        )
        for name, url, payload, key, headers in arms
    ]
