"""/metrics: what Prometheus reads, in base units; HTTP metrics under OpenTelemetry's names, ours
under `halftime_`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from halftime.records.serve import EngineStatus
    from halftime.verbs.serve.messages import Final

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, which nobody asks for

# From a table lookup to a large picture on a small machine.
_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 32)

# name, field of EngineStatus, help; counters end in _total by themselves.
_GAUGES = (
    ("halftime_queue_depth", "queue_depth", "Pictures that wait."),
    ("halftime_pictures_in_progress", "running", "Pictures being drawn."),
    (
        "halftime_worker_resident_memory_bytes",
        "resident_bytes",
        "Resident memory of the worker process.",
    ),
)
_COUNTERS = (
    ("halftime_recompiles", "recompiles", "Graphs compiled after ready; each is an alarm."),
    ("halftime_worker_restarts", "workers_restarted", "Workers started again after they died."),
)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_OfEngine(status))
        labels = ("http_request_method", "http_route", "http_response_status_code")
        self.request_seconds = self._histogram(
            "http_server_request_duration_seconds",
            "From the first byte asked to the last answered.",
            labels,
        )
        self.active = Gauge(
            "http_server_active_requests", "Requests in the server.", registry=self.registry
        )
        self.stage_seconds = self._histogram(
            "halftime_stage_duration_seconds", "A stage of one picture.", ("stage",)
        )
        self.queue_seconds = self._histogram(
            "halftime_queue_duration_seconds", "What a picture waited."
        )
        self.compute_seconds = self._histogram(
            "halftime_compute_duration_seconds", "What drawing a picture took."
        )
        self.batch_size = Histogram(
            "halftime_batch_size",
            "Pictures drawn together, seen by each of them.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self.pictures = self._counter("halftime_pictures", "Pictures drawn.")
        self.previews = self._counter("halftime_previews", "Previews sent.")
        self.cancelled = self._counter(
            "halftime_requests_cancelled", "Requests whose client left before the answer."
        )
        self.rejected = self._counter(
            "halftime_requests_rejected", "Requests not answered with a picture.", ("code",)
        )

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def drawn(self, final: Final) -> None:
        """One picture is done."""
        self.pictures.inc()
        self.queue_seconds.observe(final.queue_seconds)
        self.compute_seconds.observe(final.compute_seconds)
        self.batch_size.observe(final.batch_size)
        for stage, seconds in final.stages.items():
            self.stage_seconds.labels(stage).observe(seconds)


class _OfEngine(Collector):
    """What the engine counts itself, read when it is asked for."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, field, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=float(getattr(status, field) or 0))
        for name, field, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=float(getattr(status, field) or 0))
        yield GaugeMetricFamily(
            "halftime_ready", "1 when ready.", value=float(status.state == "ready")
        )
