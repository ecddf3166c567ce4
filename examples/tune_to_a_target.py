"""Find the fixes that reach a target without changing the pictures, write the recipe, and draw with
it.

python examples/tune_to_a_target.py                     # the bundled model, 1.5 times as fast, in
ten minutes
python examples/tune_to_a_target.py ./my-sdxl 2.0 600   # your folder, speedup, seconds to look for
it
"""

import sys

import halftime
from halftime.base import units
from halftime.records.recipe import Plan


def main(
    model: str | None = None,
    speedup: str = "1.5",
    seconds: str = "600",
    steps: str = "30",
    prompts: str = "24",
) -> None:
    pipeline = halftime.load_pipeline(model)
    workload = halftime.Workload(steps=int(steps))
    tuning = halftime.tune(
        pipeline, workload, speedup=float(speedup), budget=float(seconds), prompts=int(prompts)
    )
    recipe = tuning.recipe
    for rung in recipe.ladder:
        word = "kept" if rung.kept else "left out"
        ratios = f"predicted {units.ratio(rung.predicted)}, observed {units.ratio(rung.observed)}"
        print(f"{rung.fix:24} {word:9} {ratios} {rung.why}")
    print(f"{units.ratio(recipe.speedup)} in all; pictures: {recipe.verdict}")
    recipe.save("recipe.toml")
    with halftime.applied(pipeline, Plan(fixes=recipe.fixes)):
        pipeline("a red apple", num_inference_steps=workload.steps).images[0].save("tuned.png")
    print("wrote recipe.toml and tuned.png; the pipeline is as it was")


if __name__ == "__main__":
    main(*sys.argv[1:])
