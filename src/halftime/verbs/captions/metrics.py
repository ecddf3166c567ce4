"""What the pass-through counts, for Prometheus; in a registry of its own, so that two can live in
one process."""

from __future__ import annotations

from halftime.base.extras import optional
from halftime.verbs.captions.drift import Drift


class Metrics:
    """Decisions, spend, their time, shadowed answers and drift."""

    def __init__(self, drift: Drift) -> None:
        client = optional("prometheus_client", "captions", "halftime captions serve")
        self._write = client.generate_latest
        self.registry = client.CollectorRegistry()

        def made(kind: str, name: str, words: str, labels: tuple[str, ...] = (), **more: object):  # type: ignore[no-untyped-def]
            return getattr(client, kind)(
                f"halftime_captions_{name}", words, labels, registry=self.registry, **more
            )

        self.decisions = made(
            "Counter",
            "decisions_total",
            "Requests by the model that answered.",
            ("model", "reason"),
        )
        self.spend = made(
            "Counter", "spend_total", "Paid so far, in the prices' currency.", ("model",)
        )
        self.saved = made(
            "Counter", "always_large_spend_total", "What always-large would have paid."
        )
        self.seconds = made(
            "Histogram",
            "decision_seconds",
            "Time of one decision.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
        )
        self.shadowed = made(
            "Counter", "shadowed_total", "Small answers compared with large ones.", ("acceptable",)
        )
        self.errors = made(
            "Counter",
            "upstream_errors_total",
            "Answers that an upstream failed to give.",
            ("model",),
        )
        made("Gauge", "drift_alarms", "1 or more: calibrate anew.").set_function(
            lambda: len(drift.alarms)
        )
        made("Gauge", "small_share", "Share of recent requests sent small.").set_function(
            lambda: drift.small_share.value
        )

    def text(self) -> bytes:
        """Prometheus' text format."""
        return bytes(self._write(self.registry))
