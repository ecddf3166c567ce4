"""What stacks of fixes save end to end, each against diffusers' default, in one interleaved run.

Regime: the bundled model (or --model) on this CPU, one thread unless OMP_NUM_THREADS says
otherwise, fp32 baseline as diffusers runs it, progress bar included. Every stack is warmed up
(conversion is outside of the timing), then baseline and stacks take turns; medians of paired ratios
with 95 % intervals. Ceiling: the denoiser's share of the call bounds what VAE, text and scheduler
fixes can save (Amdahl); `halftime profile` prints it.

    python -m benchmarks.fix.stacks --out benchmarks/results/fix_stacks.json
"""

from __future__ import annotations

import time
from contextlib import ExitStack, redirect_stderr
from io import StringIO

import halftime
from benchmarks.frame import Frame
from halftime.base.stats import median, paired_ratio
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.load import load
from halftime.records import Workload
from halftime.records.recipe import Choice


def choices(*names: str) -> tuple[Choice, ...]:
    return tuple(Choice(name=name) for name in names)


SMALL = choices("progress-bar-off", "schedule-table", "prompt-cache")
TORCH_VAE = choices("vae-dtype", "vae-channels-last")
OPENVINO_DENOISER = Choice(name="openvino", settings={"components": ["denoiser"]})
GUIDANCE_60 = Choice(name="guidance-interval", settings={"stop": 0.6})
STACKS: dict[str, tuple[Choice, ...]] = {
    "schedule-table alone": choices("schedule-table"),
    "bf16 channels_last": (
        *choices("denoiser-dtype", "denoiser-channels-last"),
        *TORCH_VAE,
        *SMALL,
    ),
    "OpenVINO bf16": (*choices("openvino"), *SMALL),
    "OpenVINO bf16 denoiser, torch bf16 VAE": (OPENVINO_DENOISER, *TORCH_VAE, *SMALL),
    "the same, guidance on 60 % of the steps (approximate)": (
        OPENVINO_DENOISER,
        GUIDANCE_60,
        *TORCH_VAE,
        *SMALL,
    ),
    "ONNX Runtime fp32": (*choices("onnxruntime"), *SMALL),
}
BASELINE = "baseline"


def seconds(pipeline, workload: Workload) -> float:
    start = time.perf_counter()
    with redirect_stderr(StringIO()):
        pipeline(**call_arguments(pipeline, workload))
    return time.perf_counter() - start


def race(
    model: str | None, names: list[str], workload: Workload, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each stack's calls and of the baseline's, in turns. Each has its own pipeline:
    conversions are kept while the turns alternate."""
    with ExitStack() as stacks:
        pipelines = {BASELINE: load(model, workload).pipeline}
        for name in names:
            pipelines[name] = load(model, workload).pipeline
            stacks.enter_context(halftime.applied(pipelines[name], list(STACKS[name])))
            seconds(pipelines[name], workload)
        seconds(pipelines[BASELINE], workload)
        times: dict[str, list[float]] = {name: [] for name in pipelines}
        for _ in range(rounds):
            for name, pipeline in pipelines.items():
                times[name].append(seconds(pipeline, workload))
    return times


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--model")
    frame.parser.add_argument("--steps", type=int, default=30)
    frame.parser.add_argument("--rounds", type=int, default=7)
    frame.parser.add_argument(
        "--skip", action="append", default=[], help="leave out stacks whose name holds this"
    )
    options = frame.parse()
    workload = Workload(steps=options.steps, dtype="float32", guidance=5.0)
    loaded = load(options.model, workload)
    names = [name for name in STACKS if not any(word in name for word in options.skip)]
    times = race(options.model, names, workload, options.rounds)
    rows = []
    for name in names:
        ratio, duration = paired_ratio(times[BASELINE], times[name]), median(times[name])
        rows.append(
            {
                "stack": name,
                "seconds": duration,
                "speedup": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
            }
        )
        interval = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
        print(f"{name:54s} {1e3 * duration:7.0f} ms  {interval}")
    print(f"{BASELINE:54s} {1e3 * median(times[BASELINE]):7.0f} ms")
    frame.write(
        {
            "model": loaded.name,
            "notes": list(loaded.notes),
            "steps": options.steps,
            "rounds": options.rounds,
            "baseline_seconds": median(times[BASELINE]),
            "rows": rows,
        }
    )


if __name__ == "__main__":
    main()
