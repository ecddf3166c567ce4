"""The server's own metrics for /metrics: pictures, their stages, and what the engine counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from halftime.http.metrics import HttpMetrics

if TYPE_CHECKING:
    from halftime.records.serve import EngineStatus, State
    from halftime.verbs.serve.messages import Final

_WORKER_STATES: tuple[State, ...] = ("starting", "warming", "ready", "failed")
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
    ("halftime_worker_restarts", "workers_restarted", "Workers that another one replaced."),
    (
        "halftime_worker_failures",
        "workers_failing",
        "Workers replaced since a test picture failed after several requests in a row had.",
    ),
    ("halftime_worker_hangs", "workers_hanging", "Workers ended since they showed no life."),
    ("halftime_memory_drops", "memory_drops", "Times that memory grew and was given back."),
    ("halftime_black_pictures", "black", "Pictures that came out black."),
    ("halftime_shadow_pictures", "shadowed", "Pictures drawn again without the recipe."),
    ("halftime_shadow_different", "shadow_different", "Of those, which differed visibly."),
    ("halftime_alarms", "alarm_count", "What an operator must look at: see /readyz."),
)


class ServerMetrics(HttpMetrics):
    """What every server counts about its requests, and what this one counts about pictures."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        super().__init__()
        self.registry.register(_EngineCollector(status))
        self.stage_seconds = self.histogram(
            "halftime_stage_duration_seconds", "A stage of one picture.", ("stage",)
        )
        self.queue_seconds = self.histogram(
            "halftime_queue_duration_seconds", "What a picture waited."
        )
        self.compute_seconds = self.histogram(
            "halftime_compute_duration_seconds", "What drawing a picture took."
        )
        self.batch_size = self.histogram(
            "halftime_batch_size", "Pictures drawn together, seen by each of them.", (), _BATCHES
        )
        self.pictures = self.counter("halftime_pictures", "Pictures drawn.")
        self.previews = self.counter("halftime_previews", "Previews sent.")
        self.key_pictures = self.counter(
            "halftime_key_pictures", "Pictures drawn for a key, by its name.", ("key",)
        )
        self.key_seconds = self.counter(
            "halftime_key_compute_seconds", "Their share of the workers' time.", ("key",)
        )
        self.key_rejected = self.counter(
            "halftime_key_requests_rejected", "Requests refused, by key and code.", ("key", "code")
        )

    def refused(self, code: str, key: str | None) -> None:
        super().refused(code, key)
        if key is not None:
            self.key_rejected.labels(key, code).inc()

    def picture_drawn(self, final: Final, key: str | None = None) -> None:
        """One picture is done, for whoever sent this key."""
        self.pictures.inc()
        if key is not None:
            self.key_pictures.labels(key).inc()
            self.key_seconds.labels(key).inc(final.compute_seconds / final.batch_size)
        self.queue_seconds.observe(final.queue_seconds)
        self.compute_seconds.observe(final.compute_seconds)
        self.batch_size.observe(final.batch_size)
        for stage, seconds in final.stages.items():
            self.stage_seconds.labels(stage).observe(seconds)


class _EngineCollector(Collector):
    """What the engine counts itself, read when a scrape comes."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, field, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=float(getattr(status, field) or 0))
        for name, field, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=float(getattr(status, field) or 0))
        yield self._workers(status)
        ready = float(status.state == "ready")
        yield GaugeMetricFamily("halftime_ready", "1 when ready.", value=ready)

    def _workers(self, status: EngineStatus) -> Metric:
        states = [worker.state for worker in status.workers]
        family = GaugeMetricFamily("halftime_workers", "Workers by state.", labels=["state"])
        for state in _WORKER_STATES:
            family.add_metric([state], states.count(state))
        return family
