"""Does a picture stay the same however its steps are interleaved with others'?

    python -m benchmarks.serve.interleavings [--count 1000] [--only NAME ...]
        --out benchmarks/results/serve_interleavings.json

Regime: the bundled model and tiny random pipelines of each family that is served at the step, one
thread. Each interleaving draws five requests of 1 to 6 steps, with their own seeds, prompts and
guidance, that come at random moments; before each forward pass chance decides who takes the next
step, how many share it, and who is put aside. Each picture is compared with that of the pipeline's
own call. Bar: bit for bit where no pass was shared, within one grey level beside others.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DiffusionPipeline

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.frame import Frame  # noqa: E402
from halftime import bundled  # noqa: E402
from halftime.verbs.serve.step_loop import Loop, advance, begin, finish  # noqa: E402
from tiny_pipelines import PIPELINES  # noqa: E402

BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "bundled": bundled.load,
    **{name: PIPELINES[name].build for name in ("sd15", "sdxl", "sd3", "flux")},
}
PROMPTS = ("a red apple", "a flat icon of a kite", "an owl", "pixel art of a star", "a blue car")
MOST_TOGETHER = 3


class Asked(NamedTuple):
    """One request. Those that may share a pass are of one size, guided or not."""

    prompt: str
    steps: int
    seed: int
    guidance: float


def call_of(asked: Asked) -> dict[str, object]:
    return {
        "prompt": [asked.prompt],
        "num_inference_steps": asked.steps,
        "generator": [torch.Generator().manual_seed(asked.seed)],
        "output_type": "np",
        "guidance_scale": asked.guidance,
        "width": 32,
        "height": 32,
    }


def pixels(result: object) -> np.ndarray:
    (image,) = result.images  # type: ignore[attr-defined]
    return np.asarray((image * 255).round().astype(int))


def requests(rng: random.Random) -> list[Asked]:
    """Five, few enough kinds that each kind's own picture is drawn once."""
    return [
        Asked(prompt, rng.randint(1, 6), rng.randint(0, 3), rng.choice((2.5, 4.0)))
        for prompt in PROMPTS
    ]


def interleaved(
    pipeline: DiffusionPipeline, asked: Sequence[Asked], rng: random.Random, most: int
) -> list[np.ndarray]:
    """The picture of each; up to `most` share a pass."""
    waiting = list(asked)
    loops: dict[Asked, Loop] = {}
    pictures: dict[Asked, np.ndarray] = {}
    while waiting or loops:
        if waiting and (not loops or rng.random() < 0.4):
            newcomer = waiting.pop(0)
            loops[newcomer] = begin(pipeline, pipeline.scheduler, call_of(newcomer))
        turn = rng.sample(list(loops), min(len(loops), rng.randint(1, most)))
        advance(pipeline, [loops[request] for request in turn])
        for request in turn:
            if loops[request].done:
                pictures[request] = pixels(finish(pipeline, loops.pop(request)))
    return [pictures[request] for request in asked]


def row_of(name: str, count: int) -> dict[str, object]:
    pipeline = BUILDERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    own: dict[Asked, np.ndarray] = {}
    levels = {1: 0, MOST_TOGETHER: 0}
    pictures, values, differing = 0, 0, 0
    for number in range(count):
        rng = random.Random(number)
        most = rng.choice((1, MOST_TOGETHER))
        asked = requests(rng)
        for request, picture in zip(asked, interleaved(pipeline, asked, rng, most), strict=True):
            if request not in own:
                own[request] = pixels(pipeline(**call_of(request)))
            difference = np.abs(picture - own[request])
            levels[most] = max(levels[most], int(difference.max()))
            pictures, values = pictures + 1, values + difference.size
            differing += int(np.count_nonzero(difference))
    return {
        "interleavings": count,
        "pictures": pictures,
        "levels_alone": levels[1],
        "levels_beside_others": levels[MOST_TOGETHER],
        "values_that_differ_share": differing / values,
        "reached": levels[1] == 0 and levels[MOST_TOGETHER] <= 1,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--count", type=int, default=1000, help="of each pipeline")
    frame.parser.add_argument("--only", nargs="*", choices=BUILDERS, default=list(BUILDERS))
    options = frame.parse()
    torch.set_num_threads(1)
    result = dict(frame.earlier())
    for name in options.only:
        result[name] = row_of(name, options.count)
        print(name, result[name], flush=True)
        frame.write(result)


if __name__ == "__main__":
    main()
