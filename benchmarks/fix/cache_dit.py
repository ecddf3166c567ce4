"""Is cache-dit better than the caches of `step-cache`? Speed beside loss, on tiny transformers.

    python -m benchmarks.fix.cache_dit --out benchmarks/results/fix_cache_dit.json [--steps 20]

Regime: the widened Flux and Qwen-Image of `benchmarks.tune.transformers` (random weights, four
blocks of each kind) at 32x32; cache-dit's DBCache alone and with its TaylorSeer, and the kinds of
`step-cache` that take a threshold, each at several thresholds. A call is timed in turns with the
plain one, 3 rounds after a warm-up; the loss is the picture's rmse over its deviation. Floor: a
cache that skips everything but one block of eight. It prints one line a setting. cache-dit is not a
dependency: pip install cache-dit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from diffusers import DiffusionPipeline

import halftime
from benchmarks.frame import Frame
from benchmarks.tune.transformers import drawing, wider, workload_of
from halftime.base.stats import median
from halftime.pipeline.arguments import call_arguments
from halftime.records.recipe import Choice

FAMILIES = ("flux", "qwenimage")
THRESHOLDS = (0.03, 0.06, 0.12, 0.24, 0.5)
KINDS = ("first-block", "mag", "taylorseer-lite")
ROUNDS = 3


@contextmanager
def cache_dit(pipeline: DiffusionPipeline, threshold: float, taylor: bool) -> Iterator[None]:
    """Its DBCache, as it is recommended for few blocks: the first block decides."""
    import cache_dit as library

    library.enable_cache(
        pipeline,
        cache_config=library.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=2,
            residual_diff_threshold=threshold,
        ),
        calibrator_config=library.TaylorSeerCalibratorConfig(taylorseer_order=1)
        if taylor
        else None,
    )
    try:
        yield
    finally:
        library.disable_cache(pipeline)


def ours(
    pipeline: DiffusionPipeline, kind: str, threshold: float
) -> AbstractContextManager[object]:
    choice = Choice(name="step-cache", settings={"kind": kind, "threshold": threshold})
    return halftime.applied(pipeline, [choice], probe=False)


def settings() -> Iterator[tuple[str, float]]:
    for threshold in THRESHOLDS:
        for name in ("cache-dit", "cache-dit taylorseer", *KINDS):
            yield name, threshold


def measured(family: str, name: str, threshold: float, steps: int) -> Mapping[str, object]:
    """Speedup over the plain call, and the loss."""
    plain, cached = wider(family), wider(family)
    workload = workload_of(family, steps, 32)
    pictures: dict[str, np.ndarray] = {}

    def draw(pipeline: DiffusionPipeline, side: str) -> float:
        begun = time.perf_counter()
        pictures[side] = drawing(lambda: pipeline(**call_arguments(pipeline, workload)))
        return time.perf_counter() - begun

    on = (
        cache_dit(cached, threshold, taylor="taylor" in name)
        if name.startswith("cache-dit")
        else ours(cached, name, threshold)
    )
    with on:
        rows = [(draw(plain, "plain"), draw(cached, "cached")) for _ in range(1 + ROUNDS)][1:]
    difference = pictures["cached"] - pictures["plain"]
    return {
        "family": family,
        "cache": name,
        "threshold": threshold,
        "speedup": median([left / right for left, right in rows]),
        "loss": float(np.sqrt(np.mean(difference**2)) / pictures["plain"].std()),
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--steps", type=int, default=20)
    options = frame.parse()
    rows: list[Mapping[str, object]] = []
    for family in FAMILIES:
        for name, threshold in settings():
            try:
                rows.append(measured(family, name, threshold, options.steps))
            except Exception as error:  # a library that does not know a model raises what it likes
                rows.append({"family": family, "cache": name, "failed": repr(error)[:200]})
            print(rows[-1], flush=True)
            frame.write({"steps": options.steps, "rows": rows})


if __name__ == "__main__":
    main()
