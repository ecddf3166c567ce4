"""The tables of GPUs in docs/hardware.md and README.md, from benchmarks/results/gpu.

python -m benchmarks.gpu.page [--check]
"""

from __future__ import annotations

from functools import partial

from benchmarks.tables import RESULTS, ROOT, between, table, update
from halftime.base import units
from halftime.base.store import read_json
from halftime.records.benchmark import Benchmark

MARK = "GPU results"
NOT_YET = "Not yet run: `make gpu-evidence` makes this table on a machine with a CUDA device."


def records() -> list[Benchmark]:
    """The committed runs on a device; a rehearsal is none."""
    paths = sorted((RESULTS / "gpu").rglob("gpu_evidence.json"))
    runs = [read_json(path, Benchmark) for path in paths]
    return [run for run in runs if run.result.get("rehearsal") is False]


def lines(runs: list[Benchmark]) -> list[str]:
    """A row for each rung of each card's ladders, or that there is none."""
    rows = [row for run in runs for part in ("story", "flux") for row in _rungs(run, part)]
    head = ("GPU", "model", "what", "a call", "speedup", "versions")
    return table(head, rows) if rows else [NOT_YET]


def _rungs(run: Benchmark, part: str) -> list[list[str]]:
    rungs = run.result.get(part)
    place = run.environment
    if not isinstance(rungs, list) or place is None:
        return []
    model = "SDXL" if part == "story" else "FLUX.1-dev"
    versions = f"torch {place.versions.get('torch')}, halftime {run.halftime}"
    return [
        [
            place.device_name,
            model,
            str(rung["what"]),
            units.seconds(rung["wall_seconds"]),
            f"{rung['speedup']:.2f}x",
            versions,
        ]
        for rung in rungs
        if isinstance(rung, dict) and "speedup" in rung
    ]


def page(text: str, runs: list[Benchmark]) -> str:
    return between(text, MARK, lines(runs))


if __name__ == "__main__":
    rewrite = partial(page, runs=records())
    update({ROOT / "docs" / "hardware.md": rewrite, ROOT / "README.md": rewrite})
