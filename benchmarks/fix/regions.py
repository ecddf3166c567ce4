"""What compiling a transformer by blocks costs, cold and warm, beside compiling it whole.

Regime: a narrow Flux of random weights with 4 double and 8 single blocks (32 features, 32 px, 2
steps) on this CPU, one thread unless OMP_NUM_THREADS says otherwise; a fresh process for each first
call. Cold: an empty temporary folder, so an empty Inductor cache; warm: a second process with the
folder that the first has filled. Ceiling: a call that compiles nothing, the steady call beside it.
Prints, for each way, the seconds of the first call and of a steady one, and how many graphs were
compiled.

    python -m benchmarks.fix.regions --out benchmarks/results/fix_regions.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

import halftime  # noqa: E402
from benchmarks.frame import Frame  # noqa: E402
from halftime.records.recipe import Choice  # noqa: E402
from tiny_pipelines import PIPELINES  # noqa: E402

WAYS: dict[str, dict[str, object]] = {
    "whole": {},
    "blocks": {"region": "blocks"},
    "blocks, weights not frozen": {"region": "blocks", "freezing": False},
}


def first_call(way: str) -> dict[str, float]:
    """In this process: seconds of the first call and of a steady one."""
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    model = pipeline.transformer
    deeper = type(model).from_config({**model.config, "num_layers": 4, "num_single_layers": 8})
    pipeline.register_modules(transformer=deeper.eval())
    choice = Choice(name="denoiser-compile", settings=WAYS[way])  # type: ignore[arg-type]
    seconds = []
    with torch.no_grad(), halftime.applied(pipeline, [choice]):
        for _ in range(4):
            begun = time.perf_counter()
            pipeline(**tiny.arguments())
            seconds.append(time.perf_counter() - begun)
    graphs = counters["stats"]["unique_graphs"]
    return {"first_call_seconds": seconds[0], "steady_seconds": seconds[-1], "graphs": graphs}


def in_fresh_process(frame: Frame, way: str, folder: str) -> dict[str, float]:
    command = frame.itself("--way", way)
    variables = {**os.environ, "TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    completed = subprocess.run(
        command, env=variables, check=True, capture_output=True, text=True, cwd=ROOT
    )
    values: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return values


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--way", choices=WAYS, help="one first call, in this process")
    options = frame.parse()
    if options.way:
        print(json.dumps(first_call(options.way)))
        return
    rows = []
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (in_fresh_process(frame, way, folder) for _ in range(2))
        first, second = cold["first_call_seconds"], warm["first_call_seconds"]
        steady, graphs = warm["steady_seconds"], cold["graphs"]
        rows.append(
            {
                "way": way,
                "cold_seconds": first,
                "warm_seconds": second,
                "steady_seconds": steady,
                "graphs": graphs,
            }
        )
        print(
            f"{way:28s} cold {first:6.1f} s, warm {second:6.1f} s, steady {1e3 * steady:.0f} ms, "
            f"{graphs} graphs",
            flush=True,
        )
    frame.write({"blocks": 12, "rows": rows})


if __name__ == "__main__":
    main()
