"""What stacks of fixes bring end to end, each against diffusers' default, in one interleaved run.

Regime: the bundled model (or --model) on this CPU, one thread unless OMP_NUM_THREADS says
otherwise, fp32 baseline as diffusers runs it, progress bar included. Every stack is warmed up
(conversion is outside of the timing), then baseline and stacks take turns; medians of paired ratios
with 95 % intervals. Ceiling: the denoiser's share of the call bounds what VAE, text and scheduler
fixes can bring (Amdahl); `halftime profile` prints it.

    python benchmarks/fix_stacks.py --output benchmarks/results/fix_stacks.json
"""

from __future__ import annotations

import argparse
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import halftime
from evidence import write
from halftime.base.stats import median, paired_ratio
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.load import load
from halftime.records import Workload
from halftime.records.recipe import Choice

SMALL = ("progress-bar-off", "schedule-table", "prompt-cache")
STACKS: dict[str, tuple[Choice, ...]] = {
    "schedule-table alone": (Choice(name="schedule-table"),),
    "bf16 channels_last": tuple(
        Choice(name=n)
        for n in (
            "denoiser-dtype",
            "denoiser-channels-last",
            "vae-dtype",
            "vae-channels-last",
            *SMALL,
        )
    ),
    "OpenVINO bf16": tuple(Choice(name=n) for n in ("openvino", *SMALL)),
    "OpenVINO bf16 denoiser, torch bf16 VAE": (
        Choice(name="openvino", settings={"components": ["denoiser"]}),
        *(Choice(name=n) for n in ("vae-dtype", "vae-channels-last", *SMALL)),
    ),
    "the same, guidance on 60 % of the steps (approximate)": (
        Choice(name="openvino", settings={"components": ["denoiser"]}),
        Choice(name="guidance-interval", settings={"stop": 0.6}),
        *(Choice(name=n) for n in ("vae-dtype", "vae-channels-last", *SMALL)),
    ),
    "ONNX Runtime fp32": tuple(Choice(name=n) for n in ("onnxruntime", *SMALL)),
}


def seconds(pipeline, workload: Workload) -> float:
    start = time.perf_counter()
    with redirect_stderr(StringIO()):
        pipeline(**call_arguments(pipeline, workload))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--skip", action="append", default=[], help="leave out stacks whose name holds this"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    workload = Workload(steps=options.steps, dtype="float32", guidance=5.0)
    # One pipeline a stack: conversions are kept while the turns alternate.
    base = load(options.model, workload)
    times: dict[str, list[float]] = {"baseline": []}
    entered = []
    stacks = {
        name: stack
        for name, stack in STACKS.items()
        if not any(word in name for word in options.skip)
    }
    for name, stack in stacks.items():
        pipeline = load(options.model, workload).pipeline
        context = halftime.applied(pipeline, list(stack))
        context.__enter__()
        seconds(pipeline, workload)
        entered.append((name, pipeline, context))
        times[name] = []
    seconds(base.pipeline, workload)
    for _ in range(options.rounds):
        times["baseline"].append(seconds(base.pipeline, workload))
        for name, pipeline, _ in entered:
            times[name].append(seconds(pipeline, workload))
    for _, _, context in entered:
        context.__exit__(None, None, None)
    rows = []
    for name in stacks:
        ratio = paired_ratio(times["baseline"], times[name])
        rows.append(
            {
                "stack": name,
                "seconds": median(times[name]),
                "speedup": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
            }
        )
        print(
            f"{name:54s} {1e3 * median(times[name]):7.0f} ms  {ratio.value:.2f}x "
            f"({ratio.low:.2f} to {ratio.high:.2f})"
        )
    print(f"{'baseline':54s} {1e3 * median(times['baseline']):7.0f} ms")
    if options.output:
        result = {
            "model": base.name,
            "notes": list(base.notes),
            "steps": options.steps,
            "rounds": options.rounds,
            "baseline_seconds": median(times["baseline"]),
            "rows": rows,
        }
        write(options.output, "fix_stacks", result)


if __name__ == "__main__":
    main()
