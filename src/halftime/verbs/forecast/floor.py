"""The hard floor: what no software can beat for this work at this precision on this GPU."""

from __future__ import annotations

from collections.abc import Sequence

from halftime.records.gpus import Gpu
from halftime.verbs.forecast.host import CONSUMER
from halftime.verbs.forecast.predict import ComponentRun, StageWork, operations_of
from halftime.verbs.forecast.quantised import weight_bytes
from halftime.verbs.forecast.roofline import formats

# Consumer cards run above the clock of their datasheet: at most by this, from measured products and
# public overclocks.
HIGHEST_CLOCK = 1.2
# fp16 on consumer cards may accumulate in fp16 at twice the rate; torch does not, other software
# can.
FP16_ACCUMULATION = 2.0
# Winograd's F(4x4, 3x3) does a 3x3 convolution with a quarter of the multiplications, on any rate.
WINOGRAD = 4.0


def floor_seconds(works: Sequence[StageWork], gpu: Gpu) -> float:
    """Seconds below which the work cannot be done: peak arithmetic, or every weight read once."""
    return sum(run.times * _forward(run, gpu) for work in works for run in work.runs)


def _forward(run: ComponentRun, gpu: Gpu) -> float:
    trace, _ = operations_of(run)
    # What runs in fp32 may be allowed TF32 without touching the model.
    conv_format, gemm_format, attention_format = formats(
        gpu, "tf32" if run.dtype == "fp32" else run.dtype
    )
    clock = HIGHEST_CLOCK if gpu.name.startswith(CONSUMER) else 1.0
    seconds = 0.0
    for group in trace.eager:
        used = {"conv": conv_format, "attention": attention_format}.get(group.kind, gemm_format)
        rate = gpu.peak[used] * clock
        if used == "fp16" and clock > 1:
            rate *= FP16_ACCUMULATION
        if group.kind == "conv" and used == "fp32":
            rate *= WINOGRAD
        seconds += group.count * group.flops / rate
    weight = weight_bytes(run.dtype)
    # Weights that stay in the L2 from one forward to the next need not be read again.
    bytes_read = max(0.0, trace.parameters * _used_share(run) * weight - gpu.l2_bytes)
    return max(seconds, bytes_read / gpu.bandwidth)


def _used_share(run: ComponentRun) -> float:
    # Of a text encoder's table only the prompt's rows are read, and of a VAE only one half runs.
    return {"denoiser": 1.0, "text_encoder": 0.5}.get(run.traced.role, 0.3)
