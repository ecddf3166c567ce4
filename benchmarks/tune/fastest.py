"""How fast is the fastest equivalent recipe, beside peers with caches of their own?

Regime: the bundled model, 128 px, 30 Euler steps, guidance 2.5, one picture a call, one thread.
Everybody in a process of its own, in the environment that it needs (benchmarks/fix/environments),
over the same weights and with the same prompts and seeds: warmed up by three calls, then in turns,
two calls each, of which the second counts. Medians, and the median of the ratios to diffusers'
default with its 95 % interval; for halftime's also that to the best peer. A peer that is not
installed, or cannot be put on this pipeline, is listed with the reason. `rmse` is against
diffusers' default, in grey levels, over the pictures of the timed calls; what a speed costs is the
question of `benchmarks.tune.draw`.

    pip install DeepCache==0.1.1 cache-dit==1.5.3
    python -m benchmarks.tune.fastest --out benchmarks/results/tune_fastest.json

`--environments` (~/peers) holds one virtual environment a requirements file, here optimum and
pruna. OpenVINO and torch.compile are peers without a cache.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.contest import (
    Stack,
    add_options,
    model_for_all,
    race,
    recipe_stacks,
    refusals,
    rows,
    started,
)
from benchmarks.frame import Frame
from benchmarks.tune.recipe import EQUIVALENT, fix
from halftime import bundled
from halftime.records.recipe import Choice

STEPS = 30


OURS: dict[str, tuple[Choice, ...]] = {
    "halftime, equivalent fixes": EQUIVALENT,
    "halftime, and deep features of every 2nd step": (*EQUIVALENT, fix("step-cache", kind="deep")),
    "halftime, and of every 3rd": (*EQUIVALENT, fix("step-cache", kind="deep", every=3)),
    "halftime, and of every 3rd after six full ones": (
        *EQUIVALENT,
        fix("step-cache", kind="deep", every=3, full_steps=6),
    ),
}
DEFAULT = Stack("diffusers default", "diffusers_default")
THIRD = ("--every", "3")
PEERS = (
    Stack("OpenVINO (optimum-intel), dynamic shapes", "optimum_openvino_dynamic", "optimum"),
    Stack("OpenVINO (optimum-intel), static reshape()", "optimum_openvino", "optimum"),
    Stack("Pruna 0.3.4, torch_compile (bf16, frozen)", "pruna", "pruna"),
    Stack("Pruna 0.3.4, deepcache, every 2nd step", "pruna_deepcache", "pruna"),
    Stack("Pruna 0.3.4, deepcache, every 3rd", "pruna_deepcache", "pruna", THIRD),
    Stack("DeepCache 0.1.1, every 2nd step", "deepcache"),
    Stack("DeepCache 0.1.1, every 3rd", "deepcache", None, THIRD),
    Stack("cache-dit 1.5.3", "cache_dit"),
)


def main() -> None:
    frame = Frame(__file__, __doc__)
    add_options(frame.parser, rounds=15)
    options = frame.parse()
    prompts = [prompt.text for prompt in bundled.prompts()[: options.rounds]]
    with tempfile.TemporaryDirectory(prefix="halftime-fastest-") as name:
        folder = Path(name)
        stacks = (DEFAULT, *recipe_stacks(OURS, folder), *PEERS)
        calls = [f"--model={model_for_all(folder)}", f"--steps={STEPS}"]
        with started(stacks, calls, folder, options) as workers:
            race(workers, prompts, folder)
    frame.write(
        {
            "rounds": options.rounds,
            "steps": STEPS,
            "threads": options.threads,
            "contestants": rows(workers),
            "refused": refusals(workers),
        }
    )


if __name__ == "__main__":
    main()
