"""Trace every built-in pipeline at its defaults, and with its fixes, for halftime to ship.

Writes src/halftime/verbs/forecast/data/traces.json.gz: with it a forecast of a built-in pipeline
imports no torch. Traces are of the installed torch, diffusers and transformers; with other versions
halftime traces anew. Run again after a change of the tracer (and count up cache.TRACER_VERSION) or
of the pinned versions.

    python -m workshop.forecast.traces
"""

from __future__ import annotations

import gzip

import msgspec

from benchmarks.tables import ROOT
from halftime.verbs.forecast.cache import Traced, key_of, trace_of
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.ops import StageTrace
from halftime.verbs.forecast.presets import PRESETS
from halftime.verbs.forecast.scenario import ForecastSettings, scenario_of
from halftime.verbs.forecast.whatif import FIXES

TARGET = ROOT / "src" / "halftime" / "verbs" / "forecast" / "data" / "traces.json.gz"


def subjects(name: str) -> list[Traced]:
    scenario = scenario_of(resolve(name), ForecastSettings())
    calls = [scenario.works, *(fix.apply(scenario, scenario.works) or () for fix in FIXES)]
    return [run.traced for works in calls for work in works for run in work.runs]


def main() -> None:
    traces: dict[str, StageTrace] = {}
    for name in (*PRESETS, "bundled"):
        for subject in subjects(name):
            traces.setdefault(key_of(subject), trace_of(subject))
    data = gzip.compress(msgspec.json.encode(traces, order="deterministic"), 9, mtime=0)
    TARGET.write_bytes(data)
    print(f"{len(traces)} traces, {len(data) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
