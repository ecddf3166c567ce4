"""Does `verify` tell apart what it ought to, and what size of fault does it find by n prompts?

Regime: the bundled model (or --model), 128 px, 30 steps, one picture a prompt, the noise floor
measured first. Ceiling: none; this is about decisions, not time. Prints the verdict of each case,
then the power curve: the share of draws of n pairs in which a VAE with one disturbed layer is
called different (pairs drawn with replacement from the pictures rendered here, so the curve knows
no others).

    python -m benchmarks.verify.cases --prompts 48 --out benchmarks/results/verify_cases.json
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import msgspec
import numpy as np
import torch

import halftime
from benchmarks.frame import Frame
from halftime.pipeline.load import load
from halftime.records import Workload
from halftime.records.recipe import Choice
from halftime.verbs.verify.decide import compare, overall
from halftime.verbs.verify.floor import floor_entries, noise_floor
from halftime.verbs.verify.metrics import kit
from halftime.verbs.verify.pictures import PictureSet, from_floats
from halftime.verbs.verify.render import floor_sets, prompt_set, render
from halftime.verbs.verify.run import MARGIN, VerifySettings, verdict_of

FAULTS = (0.0002, 0.002, 0.02, 0.1, 0.2, 0.4)  # relative disturbance of one layer's weights
COUNTS = (50, 200, 500)
DRAWS = 60


@contextmanager
def disturbed(vae, size: float):
    """One decoder layer's weights, each changed by a random `size` of itself."""
    weight = vae.decoder.up_blocks[1].resnets[0].conv1.weight
    original = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight.mul_(1 + size * noise)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(original)


@contextmanager
def decoded_with(pipeline, baseline: PictureSet):
    """Pictures from the baseline's own latents, without denoising again: what a change of the VAE
    alone does."""

    def decode() -> PictureSet:
        pictures = []
        for picture in baseline.pictures:
            with torch.no_grad():
                image = pipeline.vae.decode(
                    torch.from_numpy(picture.latent)[None], return_dict=False
                )[0][0]
            values = (image / 2 + 0.5).float().permute(1, 2, 0).numpy()
            pictures.append(
                from_floats(
                    values, picture.name, picture.content_class, picture.prompt, picture.latent
                )
            )
        return PictureSet("decoded again", tuple(pictures))

    yield decode


def cases(
    pipeline, workload: Workload, baseline: PictureSet, prompts, settings: VerifySettings
) -> dict[str, dict]:
    """Verdict and size of effect of each case."""

    def fixed(*names: str):
        return halftime.applied(pipeline, [Choice(name=name) for name in names])

    def again(label: str, around, **changes: object) -> PictureSet:
        with around:
            return render(pipeline, msgspec.structs.replace(workload, **changes), prompts, label)

    candidates = {
        "rerun": again("rerun", nullcontext()),
        "schedule-table": again("schedule-table", fixed("schedule-table")),
        "bf16 VAE": again("bf16 VAE", fixed("vae-dtype")),
        "bf16 denoiser and VAE": again("bf16", fixed("vae-dtype", "denoiser-dtype")),
        "20 steps": again("20 steps", nullcontext(), steps=20),
        "4 steps": again("4 steps", nullcontext(), steps=4),
        "one VAE layer disturbed by 2 %": again("fault", disturbed(pipeline.vae, 0.02)),
    }
    if halftime.bundled.TINY_VAE.is_dir() and halftime.bundled.trained():
        tiny_vae = Choice(name="tiny-vae", settings={"source": "bundled"})
        candidates["tiny VAE"] = again("tiny VAE", halftime.applied(pipeline, [tiny_vae]))
    strict = replace(settings, strict=True)
    return {
        name: _row(verdict_of(baseline, candidate, settings))
        | {"strict": verdict_of(baseline, candidate, strict).verdict}
        for name, candidate in candidates.items()
    }


def _row(verdict) -> dict:
    sizes = {f"{c.content_class} {c.metric}": round(c.floors, 3) for c in verdict.per_class}
    return {"verdict": verdict.verdict, "floors": sizes, "reasons": list(verdict.reasons[:3])}


def power(
    pipeline, baseline: PictureSet, floors: dict[str, dict[str, float]], margin: float
) -> list[dict]:
    """For each fault and number of pairs: how often each verdict falls, with and without the 8-bit
    floor."""
    rows = []
    tools = kit(list(baseline.pictures), "left out of the power curve", "left out")
    with decoded_with(pipeline, baseline) as decode:
        sound = decode()
        for size in FAULTS:
            with disturbed(pipeline.vae, size):
                faulty = decode()
            measured = [
                tools.measure(a, b) for a, b in zip(sound.pictures, faulty.pictures, strict=True)
            ]
            for tier, floor in floors.items():
                for count in COUNTS:
                    row = _decisions(measured, baseline, floor, margin, tier, count)
                    row = {"fault": size} | row
                    rows.append({"tier": tier} | row)
            print_power(rows[-2 * len(COUNTS) :])
    return rows


def _decisions(measured, baseline: PictureSet, floor, margin: float, tier: str, count: int) -> dict:
    rng = np.random.default_rng(count)
    names = [p.content_class for p in baseline.pictures]
    verdicts = {"different": 0, "equivalent": 0, "inconclusive": 0}
    for _ in range(DRAWS):
        pairs = rng.integers(0, len(measured), count)
        effects = compare(
            [measured[i] for i in pairs],
            [names[i] for i in pairs],
            floor,
            margin,
            strict=tier == "strict",
        )
        verdicts[overall(effects)] += 1
    flips = np.mean([row["flip"] for row in measured]) / floor["flip"]
    structure = np.mean([row["ms_ssim"] for row in measured]) / floor["ms_ssim"]
    return {
        "pairs": count,
        "flip_floors": float(flips),
        "ms_ssim_floors": float(structure),
        **{name: value / DRAWS for name, value in verdicts.items()},
    }


def print_power(rows: list[dict]) -> None:
    for row in rows:
        sizes = f"FLIP {row['flip_floors']:.2f} MS-SSIM {row['ms_ssim_floors']:.2f} floors"
        shares = ", ".join(
            f"{name} {row[name]:.0%}" for name in ("different", "equivalent", "inconclusive")
        )
        print(
            f"{row['tier']:7s} fault {row['fault']:.2%}  {row['pairs']:4d} pairs  {sizes}: {shares}"
        )


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--model")
    frame.parser.add_argument("--prompts", type=int, default=48)
    frame.parser.add_argument("--steps", type=int, default=30)
    frame.parser.add_argument("--margin", type=float, default=MARGIN)
    frame.parser.add_argument("--no-power", action="store_true", help="the cases alone")
    options = frame.parse()
    workload = Workload(steps=options.steps, dtype="float32")
    loaded = load(options.model, workload)
    prompts = prompt_set(workload, options.prompts)
    baseline = render(loaded.pipeline, workload, prompts, "baseline")
    floors = floor_sets(loaded.pipeline, workload, prompts[:8])
    settings = VerifySettings(margin=options.margin, floors=floors)
    rows = cases(loaded.pipeline, workload, baseline, prompts, settings)
    print_cases(rows)
    tools = kit(list(baseline.pictures), "left out", "left out")
    entries = floor_entries(baseline, floors, tools)
    print("floor", {f"{e.metric} {e.source}": round(e.value, 6) for e in entries})
    tiers = {
        "visible": noise_floor(entries),
        "strict": noise_floor(entries, strict=True),
    }
    curve = [] if options.no_power else power(loaded.pipeline, baseline, tiers, options.margin)
    frame.write(
        {
            "model": loaded.name,
            "notes": list(loaded.notes),
            "prompts": options.prompts,
            "steps": options.steps,
            "margin": options.margin,
            "floors": tiers,
            "cases": rows,
            "power": curve,
        }
    )


def print_cases(rows: dict[str, dict]) -> None:
    for name, row in rows.items():
        print(f"{name:32s} {row['verdict']:13s} strict: {row['strict']:13s} {row['reasons'][:1]}")
        overall_floors = {key: value for key, value in row["floors"].items() if key[:4] == "all "}
        print("    ", overall_floors)


if __name__ == "__main__":
    main()
