"""The equivalent recipe for the bundled model on a CPU, which `benchmarks.tune` measures with."""

from __future__ import annotations

from halftime.records import Json
from halftime.records.recipe import Choice


def fix(name: str, **settings: Json) -> Choice:
    """A fix with these settings."""
    return Choice(name=name, settings=settings)


EQUIVALENT = (
    fix("known-device"),
    fix("openvino", components=["vae"]),
    fix("onnxruntime", components=["text_encoder"]),
    fix("loop-graph", backend="openvino"),
)
