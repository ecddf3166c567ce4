"""What a warm start costs: the first call that compiles, without and with saved artefacts.

Regime: the bundled model on this CPU, one thread unless OMP_NUM_THREADS says otherwise; a fresh
process for each first call, with an empty temporary folder (TMPDIR, so an empty Inductor cache and
no precompiled headers), as in a new container; both cases in turns, the order exchanged. `without`
is `halftime.applied(pipe, recipe)`, `with` is the same with `artefacts=FILE`; `saving` is the one
run that wrote the file. Ceiling: a call that compiles nothing, the steady call beside it. Prints
the seconds of the first calls, the median of the paired ratios with its 95 % interval, and where a
warm start's time goes (torch's own counters).

    python -m benchmarks.fix.artefacts [vae-compile] [denoiser-compile]
        --out benchmarks/results/fix_artefacts.json
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch._dynamo.utils import compilation_time_metrics, counters

import halftime
from benchmarks.frame import Frame
from halftime import bundled
from halftime.base import environment
from halftime.base.stats import median, paired_ratio

RECIPES = {"vae-compile": ["vae-compile"], "denoiser-compile": ["denoiser-compile"]}
CASES = ("without", "with")
PARTS = ("importing the compiler", "tracing", "freezing", "loading graph and kernels")


def first_call(fixes: list[str], artefacts: str | None) -> dict[str, object]:
    """In this process: seconds of loading, of the first call, of a steady one, and of parts of the
    first."""
    begun = time.perf_counter()
    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    importlib.import_module("torch._inductor.compile_fx")
    imported = time.perf_counter()
    calls = []
    with halftime.applied(pipeline, fixes, artefacts=artefacts):
        for _ in range(3):
            start = time.perf_counter()
            pipeline(
                "a red apple",
                num_inference_steps=2,
                guidance_scale=bundled.GUIDANCE,
                output_type="np",
            )
            calls.append(time.perf_counter() - start)
    spent = {name: sum(values) for name, values in compilation_time_metrics.items()}
    inner = spent["compile_fx_inner"]
    freezing = spent["create_aot_dispatcher_function"] - inner
    return {
        "load_seconds": loaded - begun,
        # the compiler is imported by a first call, so it counts
        "first_seconds": imported - loaded + calls[0],
        "steady_seconds": min(calls[1:]),
        "graphs_found": counters["inductor"]["fxgraph_cache_hit"],
        "graphs_missed": counters["inductor"]["fxgraph_cache_miss"],
        "parts": dict(
            zip(PARTS, (imported - loaded, spent["bytecode_tracing"], freezing, inner), strict=True)
        ),
    }


def in_fresh_process(frame: Frame, recipe: str, artefacts: Path | None) -> dict:
    options = ["--artefacts", str(artefacts)] if artefacts else []
    with tempfile.TemporaryDirectory(prefix="halftime-empty-") as empty:
        variables = {
            name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"
        }
        completed = subprocess.run(
            frame.itself("--first-call", recipe, *options),
            env={**variables, "TMPDIR": empty},
            capture_output=True,
            text=True,
            check=False,
        )
    if completed.returncode:
        raise RuntimeError(completed.stderr)
    return json.loads(completed.stdout.splitlines()[-1])


def measured(frame: Frame, recipe: str, rounds: int, folder: Path) -> dict:
    file, busy = folder / f"{recipe}.artefacts", environment.load_average()
    saving = in_fresh_process(frame, recipe, file)
    size = file.stat().st_size
    calls: dict[str, list[dict]] = {case: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES if turn % 2 else CASES[::-1]:
            call = in_fresh_process(frame, recipe, file if case == "with" else None)
            calls[case].append(call)
            print(f"{recipe:18s} {case:8s} {call['first_seconds']:6.1f} s", flush=True)
    assert all(call["graphs_found"] and not call["graphs_missed"] for call in calls["with"]), (
        "it compiled anew"
    )
    assert file.stat().st_size == size
    first = {case: [call["first_seconds"] for call in calls[case]] for case in CASES}
    ratio = paired_ratio(first["without"], first["with"])
    return {
        "recipe": recipe,
        "rounds": rounds,
        "without_seconds": median(first["without"]),
        "with_seconds": median(first["with"]),
        "saving_seconds": saving["first_seconds"],
        "steady_seconds": median([call["steady_seconds"] for call in calls["with"]]),
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "file_bytes": size,
        "parts": {name: median([call["parts"][name] for call in calls["with"]]) for name in PARTS},
        "first_calls": first,
        "threads": torch.get_num_threads(),
        "load_average": busy,
    }


def sentence(row: dict) -> str:
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["parts"].items())
    return (
        f"{row['recipe']}: {row['without_seconds']:.1f} s without, {row['with_seconds']:.1f} s "
        "with artefacts of "
        f"{row['file_bytes'] / 2**20:.1f} MiB: {row['ratio']:.2f}x ({row['low']:.2f} to "
        f"{row['high']:.2f}); steady "
        f"{row['steady_seconds']:.2f} s; the run that saved them {row['saving_seconds']:.1f} "
        f"s; with them: {parts}"
    )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument(
        "recipes", nargs="*", choices=[*RECIPES, []], help="which; by default, all of them"
    )
    frame.parser.add_argument("--rounds", type=int, default=5)
    frame.parser.add_argument(
        "--first-call", choices=RECIPES, help="one, in this process (used by the rounds)"
    )
    frame.parser.add_argument("--artefacts")
    options = frame.parse()
    if options.first_call:
        with contextlib.redirect_stdout(sys.stderr):
            call = first_call(RECIPES[options.first_call], options.artefacts)
        print(json.dumps(call))
        return
    rows = {row["recipe"]: row for row in frame.earlier().get("rows", [])}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes or RECIPES:
            rows[recipe] = measured(frame, recipe, options.rounds, Path(folder))
            print(sentence(rows[recipe]))
            frame.write({"steps": 2, "rows": list(rows.values())})


if __name__ == "__main__":
    main()
