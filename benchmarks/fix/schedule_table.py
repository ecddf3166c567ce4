"""What the scheduler costs the host, and what its table costs: per step and as a share of a call.

Regime: CPU, one thread, latents of 1 x 4 x 128 x 128 (SDXL at 1024 px), 30 steps, fp32; scheduler
and table in turns in one process, medians over rounds. Ceiling: the table's step is a multiply-add
over two or three tensors of 256 KiB, so what is left is a few microseconds of Python and of memory
traffic. Prints milliseconds a run and the ratio.

    python -m benchmarks.fix.schedule_table --out benchmarks/results/fix_schedule_table.json
"""

from __future__ import annotations

import time

import diffusers
import torch

from benchmarks.frame import Frame
from halftime.base.stats import median, paired_ratio
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


def scheduler_of(name: str):
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
    original, table = scheduler_of(name), tabled(scheduler_of(name))
    first = seconds(table, sample, output)
    original_seconds, table_seconds = [], []
    for _ in range(rounds):
        original_seconds.append(seconds(original, sample, output))
        table_seconds.append(seconds(table, sample, output))
    ratio = paired_ratio(original_seconds, table_seconds)
    return {
        "scheduler": name,
        "original_seconds": median(original_seconds),
        "table_seconds": median(table_seconds),
        "first_table_seconds": first,
        "speedup": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
    }


def sentence(row: dict) -> str:
    original, table, first = (
        1e3 * row[f"{name}_seconds"] for name in ("original", "table", "first_table")
    )
    return (
        f"{row['scheduler']:34s} {original:7.2f} ms  table {table:6.2f} ms  "
        f"{row['speedup']:.2f}x ({row['low']:.2f} to {row['high']:.2f})  first run {first:.0f} ms"
    )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=21)
    options = frame.parse()
    torch.set_num_threads(1)
    rows = []
    for name in NAMES:
        rows.append(measure(name, options.rounds))
        print(sentence(rows[-1]))
    frame.write({"steps": STEPS, "shape": SHAPE, "rows": rows})


if __name__ == "__main__":
    main()
