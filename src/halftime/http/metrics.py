"""/metrics: what Prometheus reads; HTTP metrics under OpenTelemetry's names, ours under
`halftime_`."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

# a second series beside each, which nobody asks for
disable_created_metrics()  # type: ignore[no-untyped-call]

# Bucket bounds in seconds, from a table lookup to a large picture on a small machine.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class HttpMetrics:
    """What every server counts about its requests; a server with more to count inherits from it.

    The registry is not prometheus_client's global one, so that two servers can live in one process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.request_seconds = self.histogram(
            "http_server_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self.active = Gauge(
            "http_server_active_requests", "Requests in the server.", registry=self.registry
        )
        self.cancelled = self.counter(
            "halftime_requests_cancelled", "Requests whose client left before the answer."
        )
        self.rejected = self.counter(
            "halftime_requests_rejected", "Requests answered with an error, by its code.", ("code",)
        )

    def histogram(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = SECONDS,
    ) -> Histogram:
        """A histogram in this registry; `text` is its help."""
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A counter in this registry."""
        return Counter(name, text, labels, registry=self.registry)

    def refused(self, code: str, key: str | None) -> None:
        """A request was answered with an error; `key` names the key that it came with."""
        self.rejected.labels(code).inc()

    def response(self) -> Response:
        """All of it in Prometheus's text format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
