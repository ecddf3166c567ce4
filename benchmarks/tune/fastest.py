"""How fast is the fastest equivalent recipe, beside peers with caches of their own?

Regime: the bundled model, 30 Euler steps, guidance 2.5, one picture a call, one thread. Everybody
in one process over the same weights, called in turns after two warm-up calls; the medians, and the
median of the ratios to diffusers' default with its 95 % interval. A peer that is not installed, or
cannot be put on this pipeline, is listed with the reason. `rmse` is against diffusers' default, in
grey levels, over the pictures of the timed calls; what a speed costs is the question of
`benchmarks.tune.draw`.

    pip install DeepCache==0.1.1 cache-dit==1.5.3
    python -m benchmarks.tune.fastest --out benchmarks/results/tune_fastest.json
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import median, paired_ratio
from halftime.fix.apply import applied
from halftime.pipeline.twin import twin
from halftime.records import Json, Workload
from halftime.records.recipe import Choice, Plan
from halftime.verbs.verify.render import prompt_set

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ROUNDS = 15
STEPS = 30
DEFAULT = "diffusers default"
Prepare = Callable[["DiffusionPipeline", ExitStack], None]


def _fix(name: str, **settings: Json) -> Choice:
    return Choice(name=name, settings=settings)


RECIPE = (
    _fix("known-device"),
    _fix("openvino", components=["vae"]),
    _fix("onnxruntime", components=["text_encoder"]),
    _fix("loop-graph", backend="openvino"),
)


def recipe(*more: Choice) -> Prepare:
    """halftime's equivalent recipe, and fixes on top."""

    def prepare(pipeline: DiffusionPipeline, stack: ExitStack) -> None:
        stack.enter_context(applied(pipeline, Plan(fixes=(*RECIPE, *more)), probe=False))

    return prepare


def deepcache(every: int) -> Prepare:
    """The package DeepCache, as its page shows it."""

    def prepare(pipeline: DiffusionPipeline, stack: ExitStack) -> None:
        helper = importlib.import_module("DeepCache").DeepCacheSDHelper(pipe=pipeline)
        helper.set_params(cache_interval=every, cache_branch_id=0)
        helper.enable()

    return prepare


def cache_dit(pipeline: DiffusionPipeline, stack: ExitStack) -> None:
    """The package cache-dit with its defaults."""
    importlib.import_module("cache_dit").enable_cache(pipeline)


def pruna(pipeline: DiffusionPipeline, stack: ExitStack) -> None:
    """Pruna's own DeepCache."""
    package = importlib.import_module("pruna")
    package.smash(pipeline, package.SmashConfig(["deepcache"]))


CONTESTANTS: dict[str, Prepare] = {
    DEFAULT: lambda pipeline, stack: None,
    "halftime, equivalent fixes": recipe(),
    "halftime, and deep features of every 2nd step": recipe(_fix("step-cache", kind="deep")),
    "halftime, and of every 3rd": recipe(_fix("step-cache", kind="deep", every=3)),
    "DeepCache 0.1.1, every 2nd step": deepcache(2),
    "DeepCache 0.1.1, every 3rd": deepcache(3),
    "cache-dit 1.5.3": cache_dit,
    "Pruna 0.3.4, deepcache": pruna,
}


def call(pipeline: DiffusionPipeline, prompt: str, seed: int) -> np.ndarray:
    """One picture, in grey levels."""
    pictures = pipeline(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=bundled.GUIDANCE,
        output_type="np",
        generator=torch.Generator().manual_seed(seed),
    ).images
    return 255 * np.asarray(pictures, dtype=float)


def measured(stack: ExitStack, rounds: int) -> dict[str, object]:
    """All that run, in turns."""
    prompts = [prompt.text for prompt in prompt_set(Workload(), rounds)]
    pipelines: dict[str, DiffusionPipeline] = {}
    refused: dict[str, str] = {}
    for name, prepare in CONTESTANTS.items():
        pipeline = twin(bundled.load())
        pipeline.set_progress_bar_config(disable=True)
        try:
            prepare(pipeline, stack)
            for _ in range(2):
                call(pipeline, prompts[0], 0)
        except Exception as error:  # a peer may refuse in any way
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        else:
            pipelines[name] = pipeline
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    errors: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn, prompt in enumerate(prompts):
        expected = None
        for name, pipeline in pipelines.items():
            begun = time.perf_counter()
            picture = call(pipeline, prompt, turn)
            seconds[name].append(time.perf_counter() - begun)
            expected = picture if expected is None else expected
            errors[name].append(float(np.sqrt(np.mean((picture - expected) ** 2))))
    rows = []
    for name in pipelines:
        ratio = paired_ratio(seconds[DEFAULT], seconds[name])
        rows.append(
            {
                "who": name,
                "seconds": median(seconds[name]),
                "speedup": ratio.value,
                "speedup_low": ratio.low,
                "speedup_high": ratio.high,
                "rmse": median(errors[name]),
            }
        )
    return {"rounds": rounds, "steps": STEPS, "contestants": rows, "refused": refused}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parse()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        frame.write(measured(stack, ROUNDS))


if __name__ == "__main__":
    main()
