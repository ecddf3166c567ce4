"""What the pass-through counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from halftime.http.metrics import HttpMetrics
from halftime.verbs.captions.drift import Drift

_DECISION_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)  # bucket bounds


class CaptionMetrics(HttpMetrics):
    """Decisions, spend, their time, shadowed answers and drift."""

    def __init__(self, drifts: Sequence[Drift]) -> None:
        """`drifts`: of each router, the small model's first."""
        super().__init__()
        self.decisions = self.counter(
            "halftime_captions_decisions",
            "Requests by the model that answered.",
            ("model", "reason"),
        )
        self.spend = self.counter(
            "halftime_captions_spend", "Paid so far, in the prices' currency.", ("model",)
        )
        self.saved = self.counter(
            "halftime_captions_always_large_spend", "What always-large would have paid."
        )
        self.seconds = self.histogram(
            "halftime_captions_decision_seconds",
            "Time of one decision.",
            buckets=_DECISION_SECONDS,
        )
        self.shadowed = self.counter(
            "halftime_captions_shadowed",
            "Small answers compared with large ones.",
            ("acceptable",),
        )
        self.errors = self.counter(
            "halftime_captions_upstream_errors",
            "Answers that an upstream failed to give.",
            ("model",),
        )
        alarms = Gauge(
            "halftime_captions_drift_alarms", "1 or more: recalibrate.", registry=self.registry
        )
        alarms.set_function(lambda: sum(len(drift.alarms) for drift in drifts))
        small_share = Gauge(
            "halftime_captions_small_share",
            "Share of recent requests sent to the small model.",
            registry=self.registry,
        )
        small_share.set_function(lambda: drifts[0].small_share)
