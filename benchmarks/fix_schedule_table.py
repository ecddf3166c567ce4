"""What the scheduler costs the host, and what its table costs: per step and as a share of a call.

Regime: CPU, one thread, latents of 1 x 4 x 128 x 128 (SDXL at 1024 px), 30 steps, fp32; scheduler
and table in turns in one process, medians over rounds. Ceiling: the table's step is a multiply-add
over two or three tensors of 256 KiB, so what is left is a few microseconds of Python and of memory
traffic. Prints milliseconds a run and the ratio.

    python benchmarks/fix_schedule_table.py --output benchmarks/results/fix_schedule_table.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import diffusers
import torch

from evidence import write
from halftime.base.stats import paired_ratio
from halftime.fix.table_scheduler import tabled

NAMES = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
STEPS, SHAPE = 30, (1, 4, 128, 128)


def make(name: str):
    kind = getattr(diffusers, name)
    return kind(clip_sample=False) if name == "DDIMScheduler" else kind()


def seconds(scheduler, sample: torch.Tensor, output: torch.Tensor) -> float:
    """One run of scheduler code alone: set_timesteps, scale_model_input and step."""
    start = time.perf_counter()
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, t)
        sample = scheduler.step(output, t, sample, return_dict=False)[0]
    return time.perf_counter() - start


def measure(name: str, rounds: int) -> dict[str, float | str]:
    torch.manual_seed(0)
    sample, output = torch.randn(SHAPE), torch.randn(SHAPE) * 0.1
    original, table = make(name), tabled(make(name))
    first = seconds(table, sample, output)
    pairs = [
        (seconds(original, sample, output), seconds(table, sample, output)) for _ in range(rounds)
    ]
    ratio = paired_ratio(*map(list, zip(*pairs, strict=True)))
    middle = [sorted(side)[rounds // 2] for side in zip(*pairs, strict=True)]
    return {
        "scheduler": name,
        "original_seconds": middle[0],
        "table_seconds": middle[1],
        "first_table_seconds": first,
        "speedup": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, options.rounds) for name in NAMES]
    for r in rows:
        both = f"{1e3 * r['original_seconds']:7.2f} ms  table {1e3 * r['table_seconds']:6.2f} ms"
        ratio = f"{r['speedup']:.2f}x ({r['low']:.2f} to {r['high']:.2f})"
        print(
            f"{r['scheduler']:34s} {both}  {ratio}  first run "
            f"{1e3 * r['first_table_seconds']:.0f} ms"
        )
    if options.output:
        write(options.output, "fix_schedule_table", {"steps": STEPS, "shape": SHAPE, "rows": rows})


if __name__ == "__main__":
    main()
