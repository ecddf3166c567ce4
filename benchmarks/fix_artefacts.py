"""What a warm start pays: the first call with a compiling recipe, without and with saved compile
artefacts.

Regime: the bundled model on this CPU, one thread unless OMP_NUM_THREADS says otherwise; a fresh
process for each first call, with an empty temporary folder (TMPDIR, so an empty Inductor cache and
no precompiled headers), as in a new container; both cases in turns, the order exchanged. `without`
is `halftime.applied(pipe, recipe)`, `with` is the same with `artefacts=FILE`; `saving` is the one
run that wrote the file. Ceiling: a call that compiles nothing, the steady call beside it. Prints
the seconds of the first calls, the median of the paired ratios with its 95 % interval, and where a
warm start's time goes (torch's own counters).

    python benchmarks/fix_artefacts.py [RECIPE ...]      recipes: vae-compile denoiser-compile
"""

from __future__ import annotations

import argparse
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

import halftime
from evidence import write
from halftime import bundled
from halftime.base import environment
from halftime.base.stats import median, paired_ratio
from halftime.base.store import read_json
from halftime.pipeline.device import this_environment
from halftime.records.benchmark import Benchmark

RECIPES = {"vae-compile": ["vae-compile"], "denoiser-compile": ["denoiser-compile"]}
CASES = ("without", "with")
RESULT = Path(__file__).parent / "results" / "fix_artefacts.json"
PARTS = ("importing the compiler", "tracing", "freezing", "loading graph and kernels")


def first_call(fixes: list[str], artefacts: str | None) -> dict[str, object]:
    """In this process: seconds of loading, of the first call, of a steady one, and of parts of the
    first."""
    from torch._dynamo.utils import compilation_time_metrics, counters

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


def fresh(recipe: str, artefacts: Path | None) -> dict:
    with tempfile.TemporaryDirectory(prefix="halftime-empty-") as empty:
        kept = ["--artefacts", str(artefacts)] if artefacts else []
        variables = {
            name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"
        }
        done = subprocess.run(
            [sys.executable, __file__, "--first-call", recipe, *kept],
            env={**variables, "TMPDIR": empty},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measured(recipe: str, rounds: int, folder: Path) -> dict:
    file, busy = folder / f"{recipe}.artefacts", environment.load_average()
    saving = fresh(recipe, file)
    size = file.stat().st_size
    calls: dict[str, list[dict]] = {case: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES if turn % 2 else CASES[::-1]:
            calls[case].append(fresh(recipe, file if case == "with" else None))
            print(f"{recipe:18s} {case:8s} {calls[case][-1]['first_seconds']:6.1f} s", flush=True)
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
        "threads": this_environment().threads,
        "load_average": busy,
    }


def said(row: dict) -> str:
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "recipes", nargs="*", choices=[*RECIPES, []], help="which; all of them where none is named"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--first-call", choices=RECIPES, help="one, in this process (used by the rounds)"
    )
    parser.add_argument("--artefacts")
    options = parser.parse_args()
    if options.first_call:
        with contextlib.redirect_stdout(sys.stderr):
            found = first_call(RECIPES[options.first_call], options.artefacts)
        print(json.dumps(found))
        return
    place, known = (
        this_environment(),
        read_json(RESULT, Benchmark).result["rows"] if RESULT.exists() else [],
    )
    rows = {row["recipe"]: row for row in known}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes or RECIPES:
            row = rows[recipe] = measured(recipe, options.rounds, Path(folder))
            print(said(row))
            write(RESULT, "fix_artefacts", {"steps": 2, "rows": list(rows.values())}, place)


if __name__ == "__main__":
    main()
