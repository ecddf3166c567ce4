"""How a server's model is loaded: as `halftime.load_pipeline` is told it, by a workload."""

from __future__ import annotations

from halftime.pipeline.workload import change
from halftime.records import Workload
from halftime.records.workload import SOURCE
from halftime.verbs.serve.messages import EngineSettings

_FIELDS = ("device", "dtype", "scheduler", *SOURCE)


def source_of(settings: EngineSettings) -> Workload:
    """A workload that says how the model is loaded, and nothing else. Raises BadWorkload."""
    values = {name: getattr(settings, name) for name in _FIELDS}
    return change(Workload(), {name: value for name, value in values.items() if value})
