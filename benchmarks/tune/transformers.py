"""Which combinations of cache, compilation, attention and quantised weights does `tune` keep?

    python -m benchmarks.tune.transformers --out benchmarks/results/tune_transformers.json
        [--budget 4m] [--only flux] [--steps 10] [--size 32] [--loss 0.05]

Regime: Flux, SD 3, Wan and Qwen-Image, the tests' tiny random pipelines with transformers that are
wider and deeper (128 or 256 features, four blocks of each kind), so that the transformer is most of
the call; `tune --allow approximate` within a budget for each family, of the fixes that make up the
stack on a GPU (LEVERS, compiled by blocks), without a sweep of solvers and without runtimes, which
exclude the stack on a CPU. Then the recipe is put on and taken off again: the pictures before and
after must be the same bytes. Weights are random, so losses say how far the plan's pictures are from
the baseline's, and nothing about taste.

Families are added to the result one by one, so that a run that was stopped goes on. It prints each
decision, and for each family the recipe, its speedup and its loss.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402

import halftime  # noqa: E402
from benchmarks.frame import Frame  # noqa: E402
from fix_cells import changes, drawing, fingerprint  # noqa: E402
from halftime.base.units import parse_seconds  # noqa: E402
from halftime.pipeline.arguments import call_arguments  # noqa: E402
from halftime.pipeline.load import LoadedPipeline  # noqa: E402
from halftime.records import Workload  # noqa: E402
from halftime.records.recipe import Choice, Rung  # noqa: E402
from halftime.records.tune import Tuning  # noqa: E402
from halftime.verbs.tune import climber as tune_climber  # noqa: E402
from halftime.verbs.tune import sweep as tune_sweep  # noqa: E402
from halftime.verbs.tune.candidates import described  # noqa: E402
from halftime.verbs.tune.decide import Goal  # noqa: E402
from halftime.verbs.tune.options import Options  # noqa: E402
from halftime.verbs.tune.quality import distance  # noqa: E402
from halftime.verbs.tune.run import tuned  # noqa: E402
from tiny_pipelines import FAMILIES, PIPELINES  # noqa: E402

# What is larger than in the tests: the width of a head stays, since positions depend on it.
WIDER: Mapping[str, dict[str, object]] = {
    "flux": {"num_attention_heads": 16, "num_layers": 4, "num_single_layers": 4},
    "sd3": {"num_attention_heads": 16, "caption_projection_dim": 128, "num_layers": 4},
    "wan": {"num_attention_heads": 16, "ffn_dim": 1024, "num_layers": 4},
    "qwenimage": {"num_attention_heads": 16, "num_layers": 4},
}
LEVERS = (
    "attention-backend",
    "denoiser-compile",
    "denoiser-dtype",
    "step-cache",
    "denoiser-quantize",
)
ARGUMENTS = {"max_sequence_length": 16}


def is_whole(choice: Choice) -> bool:
    """Compiled whole, which takes longer than a budget here has, and caches want blocks."""
    return choice.name == "denoiser-compile" and choice.settings.get("region") != "blocks"


def only_levers() -> None:
    """From here on `tune` proposes these alone."""
    everything = tune_climber.candidates

    def levers(
        pipeline: DiffusionPipeline, approximate: bool, device: torch.device | None = None
    ) -> tuple[list[Choice], list[Rung]]:
        choices, refused = everything(pipeline, approximate, device)
        named = [choice for choice in choices if choice.name in LEVERS and not is_whole(choice)]
        return named, [rung for rung in refused if rung.fix in LEVERS]

    tune_climber.candidates = levers
    tune_sweep.settings_to_try = lambda pipeline, steps: []


def wider(name: str) -> DiffusionPipeline:
    """The tests' pipeline with a larger transformer."""
    pipeline = {**PIPELINES, **FAMILIES}[name].build()
    model = pipeline.transformer
    torch.manual_seed(0)
    larger = type(model).from_config({**model.config, **WIDER[name]})
    pipeline.register_modules(transformer=larger.eval())
    return pipeline


def workload_of(name: str, steps: int, size: int) -> Workload:
    film = {"num_frames": 9, "output_type": "np"} if name == "wan" else {}
    return Workload(
        steps=steps, width=size, height=size, seed=1, device="cpu", arguments={**ARGUMENTS, **film}
    )


def undone(name: str, tuning: Tuning) -> bool:
    """Whether the recipe, once it was on, leaves the pipeline and its pictures as they were."""
    pipeline = wider(name)

    def draw() -> np.ndarray:
        return drawing(lambda: pipeline(**call_arguments(pipeline, tuning.workload)))

    plain, before = draw(), fingerprint(pipeline)
    with halftime.applied(pipeline, tuning.recipe, probe=False):
        draw()
    return np.array_equal(draw(), plain) and changes(before, fingerprint(pipeline)) == []


def row(name: str, tuning: Tuning) -> dict[str, object]:
    """A family's row: what was kept and dropped, and the loss of all together."""
    assert tuning.evidence is not None
    return {
        "family": name,
        "pipeline": tuning.pipeline,
        "baseline_seconds": tuning.baseline_seconds,
        "tuned_seconds": tuning.tuned_seconds,
        "speedup": tuning.speedup,
        "low": tuning.speedup_low,
        "high": tuning.speedup_high,
        "recipe": [described(choice) for choice in tuning.recipe.fixes],
        "approximate": sorted(
            {rung.fix for rung in tuning.ladder if rung.kept and rung.level == "approximate"}
        ),
        "flip": distance(tuning.evidence, "flip"),
        "agreement": distance(tuning.evidence, "agreement"),
        "verdict": tuning.verdict,
        "pictures": tuning.prompts,
        "undone_exactly": undone(name, tuning),
        "spent_seconds": tuning.spent_seconds,
        "stopped": tuning.stopped,
        "rungs": [
            {
                "fix": rung.fix,
                "settings": rung.settings,
                "kept": rung.kept,
                "gain": rung.gain,
                "why": rung.why,
            }
            for rung in tuning.ladder
            if rung.level == "approximate" or rung.observed is not None
        ],
        "notes": list(tuning.notes),
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--budget", default="4m", help="of each family")
    frame.parser.add_argument("--only", nargs="*", choices=WIDER, default=[*WIDER])
    frame.parser.add_argument("--steps", type=int, default=10)
    frame.parser.add_argument("--size", type=int, default=32)
    frame.parser.add_argument("--loss", type=float, default=0.05)
    options = frame.parse()
    warnings.simplefilter("ignore")
    only_levers()
    rows = {str(earlier["family"]): earlier for earlier in frame.earlier().get("rows", [])}  # type: ignore[union-attr, index, call-overload]
    say: Callable[[str], None] = lambda words: print(f"  {words}", flush=True)  # noqa: E731
    for name in options.only:
        print(name, flush=True)
        settings = Options(
            Goal(), parse_seconds(options.budget), approximate=True, loss=options.loss, prompts=12
        )
        loaded = LoadedPipeline(wider(name), f"tiny {name}", ())
        tuning = tuned(
            loaded, workload_of(name, options.steps, options.size), settings, say=say
        ).tuning
        rows[name] = row(name, tuning)
        torch._dynamo.reset()
        print(
            f"{name}: {tuning.speedup:.2f}x, {', '.join(map(str, rows[name]['recipe']))}; "  # type: ignore[call-overload]
            f"FLIP {rows[name]['flip']}, undone exactly: {rows[name]['undone_exactly']}",
            flush=True,
        )
        frame.write({"loss": options.loss, "steps": options.steps, "rows": list(rows.values())})


if __name__ == "__main__":
    main()
