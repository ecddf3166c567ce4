"""How far are the pictures of each setting of approximate fixes from the baseline's?

Regime: the bundled model, all 500 prompts of the test set, one seed a prompt, 30 Euler steps,
guidance 2.5, one thread. The baseline is diffusers as it is, in float32; every other setting but
`bf16` stands on top of the equivalent fixes (the loop and VAE on OpenVINO), one picture a call.
Drawn once; `benchmarks.tune.certified` reads the distances, prompt by prompt.

    python -m benchmarks.tune.draw SETTING --pictures FOLDER     into FOLDER/SETTING.npz
    python -m benchmarks.tune.draw sheet --setting NAME --pictures FOLDER --png FILE
    python -m benchmarks.tune.draw distances --pictures FOLDER
        --out benchmarks/results/tune_draw.json

Beside the pictures of `bf16` what each step did is kept, for the score that tells hard prompts from
easy ones: how much guidance changed the model's output, and how much that changed since the step
before.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.frame import Frame
from benchmarks.tune.recipe import EQUIVALENT, fix
from halftime import bundled
from halftime.fix.apply import applied
from halftime.fix.hard_prompts import StepFeatures
from halftime.pipeline.change import patched
from halftime.records import Workload
from halftime.records.recipe import Choice, Plan
from halftime.verbs.tune.visible import ruler, strangers
from halftime.verbs.verify import judge as judges
from halftime.verbs.verify.floor import floor_entries, noise_floor
from halftime.verbs.verify.metrics import Kit, kit
from halftime.verbs.verify.pictures import Picture, PictureSet, paired
from halftime.verbs.verify.render import prompt_set, render
from halftime.verbs.verify.run import new_faults
from halftime.verbs.verify.tripwires import trips

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PROMPTS, BATCH = 500, 10
_ACROSS, _DOWN = 4, 3  # pairs on a sheet
METRICS_KEPT = ("flip", "flip_local", "ms_ssim", "agreement")
WORKLOAD = Workload(guidance=bundled.GUIDANCE)


BASELINE, RECIPE = "baseline", "equivalent fixes"
STEPS_KEPT = 10
FEATURES_OF = "bf16"  # the setting whose steps are looked at


def _cache(every: int, full_steps: int = 0) -> Choice:
    return fix("step-cache", kind="deep", every=every, full_steps=full_steps)


def _steps(count: int) -> Choice:
    return fix("solver-steps", steps=count)


def _guidance(stop: float) -> Choice:
    return fix("guidance-interval", stop=stop)


SETTINGS: dict[str, tuple[Choice, ...]] = {
    BASELINE: (),
    FEATURES_OF: (fix("denoiser-dtype"), fix("vae-dtype")),
    RECIPE: EQUIVALENT,
    "guidance to 95 %": (*EQUIVALENT, _guidance(0.95)),
    "guidance to 70 %": (*EQUIVALENT, _guidance(0.7)),
    "28 steps": (*EQUIVALENT, _steps(28)),
    "24 steps": (*EQUIVALENT, _steps(24)),
    "20 steps": (*EQUIVALENT, _steps(20)),
    # as others ship it: from the first step on, whichever step is the last
    "cache, every 2": (*EQUIVALENT, _cache(2)),
    "cache, every 3": (*EQUIVALENT, _cache(3)),
    "cache, every 2, guidance to 95 %": (*EQUIVALENT, _cache(2), _guidance(0.95)),
    # the last step in full
    "cache, every 2, 2 full steps": (*EQUIVALENT, _cache(2, 2)),
    "cache, every 2, 6 full steps": (*EQUIVALENT, _cache(2, 6)),
    "cache, every 3, 6 full steps": (*EQUIVALENT, _cache(3, 6)),
    "cache, every 3, 9 full steps": (*EQUIVALENT, _cache(3, 9)),
    "cache, every 3, 10 full steps": (*EQUIVALENT, _cache(3, 10)),  # not the last
    "cache, every 4, 6 full steps": (*EQUIVALENT, _cache(4, 6)),
    "cache, every 3, 6 full steps, 24 steps": (*EQUIVALENT, _cache(3, 6), _steps(24)),
}


# ---- drawing


@contextmanager
def _watched(pipeline: DiffusionPipeline, rows: list[np.ndarray]) -> Iterator[None]:
    """Within it `rows` gets, for each step, an array (2, pictures): see the module's docstring."""
    forward = pipeline.unet.forward
    features = StepFeatures()

    def call(*args: object, **kwargs: object) -> object:
        if len(rows) % WORKLOAD.steps == 0:
            features.before = None
        answer = forward(*args, **kwargs)
        rows.append(features.of(answer).numpy())
        return answer

    with patched(pipeline.unet, "forward", call):
        yield


def draw(name: str, folder: Path) -> None:
    """Draw one setting's pictures of all prompts; keep them, and how long a picture took."""
    pipeline, rows = bundled.load(), []
    prompts = prompt_set(WORKLOAD, PROMPTS)
    batch = (
        1 if SETTINGS[name][: len(EQUIVALENT)] == EQUIVALENT else BATCH
    )  # the loop's shapes are fixed
    with applied(pipeline, Plan(fixes=SETTINGS[name]), probe=False):
        render(pipeline, WORKLOAD, prompts[:batch], "warm-up", batch=batch)
        watched = _watched(pipeline, rows) if name == FEATURES_OF else nullcontext()
        with watched:
            begun = time.perf_counter()
            pictures = render(pipeline, WORKLOAD, prompts, name, batch=batch).pictures
            seconds = (time.perf_counter() - begun) / len(prompts)
    steps = np.array(rows).reshape(-1, WORKLOAD.steps, 2, batch) if rows else np.zeros((0,))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / f"{name}.npz",
        pixels=np.stack([picture.pixels for picture in pictures]),
        broken=np.array([picture.broken for picture in pictures]),
        # prompts, steps, (guidance's change, change since the step before)
        steps=steps.transpose(0, 3, 1, 2).reshape(-1, WORKLOAD.steps, 2) if rows else steps,
        seconds=seconds,
    )


def pictures_of(name: str, folder: Path) -> PictureSet:
    """What `draw` kept."""
    kept = np.load(folder / f"{name}.npz")
    prompts = prompt_set(WORKLOAD, PROMPTS)
    return PictureSet(
        name,
        tuple(
            Picture(p.name, pixels, p.content_class, p.text, broken=str(broken))
            for p, pixels, broken in zip(prompts, kept["pixels"], kept["broken"], strict=True)
        ),
    )


# ---- distances


def distances(names: Sequence[str], folder: Path) -> dict[str, object]:
    """Every metric of every pair, and what a floor and a stranger are."""
    baseline = pictures_of(BASELINE, folder)
    tools = kit(list(baseline.pictures), judges.find(None), judges.find_lpips(None))
    tools = tools.only({*METRICS_KEPT})
    unrelated = strangers(baseline, tools)
    table = [_row_of(name, baseline, folder, tools) for name in names]
    return {
        "prompts": PROMPTS,
        "prompts_hash": bundled.prompts_hash(),
        "floor": noise_floor(floor_entries(baseline, {}, tools)),
        "strangers": {
            name: [float(f"{q:.4g}") for q in np.quantile(values, [0.05, 0.25, 0.5])]
            for name, values in unrelated.items()
        },
        "limits": ruler(baseline, {}, {}).rule.limits,
        "settings": table,
        "steps_of": FEATURES_OF,
        # a line a prompt: of each step the two features in turn
        "steps": [
            _line(prompt[:STEPS_KEPT].ravel())
            for prompt in np.load(folder / f"{FEATURES_OF}.npz")["steps"]
        ],
    }


def _row_of(name: str, baseline: PictureSet, folder: Path, tools: Kit) -> dict[str, object]:
    kept = folder / f"{name}.json"  # what was compared is not compared again
    if not kept.exists():
        kept.write_bytes(msgspec.json.encode(_compared(name, baseline, folder, tools)))
    row: dict[str, Any] = msgspec.json.decode(kept.read_bytes())
    return row | {name: _line(row[name]) for name in METRICS_KEPT}


def _compared(name: str, baseline: PictureSet, folder: Path, tools: Kit) -> dict[str, object]:
    candidate = pictures_of(name, folder)
    rows = [tools.measure(*pair) for pair in paired(baseline, candidate)]
    broken = {trip.name for trip in new_faults(trips(paired(baseline, candidate)))}
    columns = {m: [float(f"{row[m]:.4g}") for row in rows] for m in METRICS_KEPT}
    return {
        "setting": name,
        "fixes": msgspec.to_builtins(SETTINGS[name]),
        "drawing_seconds": float(np.load(folder / f"{name}.npz")["seconds"]),
        "broken": [picture.name for picture in baseline.pictures if picture.name in broken],
        **columns,
    }


def _line(values: Iterable[float]) -> str:
    """Numbers of three digits, of which a file of thousands stays small."""
    return " ".join(f"{value:.3g}" for value in values)


def numbers(line: str) -> np.ndarray:
    """What `_line` wrote."""
    return np.array(line.split(), dtype=float)


def sheet(name: str, folder: Path, png: Path) -> None:
    """The setting's pictures that are farthest from the baseline's, in three rows: the worst that a
    certificate for it allows. Each pair is baseline and setting; its size is in limits."""
    baseline, candidate = pictures_of(BASELINE, folder), pictures_of(name, folder)
    rule = ruler(baseline, {}, {})
    sizes = rule.sizes(baseline, candidate)
    worst = sorted(range(len(sizes)), key=lambda index: -sizes[index])[: _ACROSS * _DOWN]
    side, line = baseline.pictures[0].pixels.shape[0], 14
    width, height = _ACROSS * (2 * side + 8), _DOWN * (side + line)
    image = Image.new("RGB", (width, height), "white")
    draw_on = ImageDraw.Draw(image)
    for place, index in enumerate(worst):
        left, top = (place % _ACROSS) * (2 * side + 8), (place // _ACROSS) * (side + line)
        words = f"{baseline.pictures[index].name}: {sizes[index]:.2f} limits"
        draw_on.text((left + 2, top + 1), words, fill="black")
        for column, picture in enumerate((baseline.pictures[index], candidate.pictures[index])):
            image.paste(Image.fromarray(picture.pixels), (left + column * side, top + line))
    image.save(png, optimize=True)


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("what", help="a setting, 'sheet' or 'distances'")
    frame.parser.add_argument("--pictures", type=Path, required=True)
    frame.parser.add_argument("--setting", help="of the sheet")
    frame.parser.add_argument("--png", type=Path, help="where the sheet goes")
    options = frame.parse()
    torch.set_num_threads(1)
    if options.what == "sheet":
        sheet(options.setting, options.pictures, options.png)
        return
    if options.what != "distances":
        draw(options.what, options.pictures)
        return
    names = [name for name in SETTINGS if (options.pictures / f"{name}.npz").exists()]
    frame.write(distances([name for name in names if name != BASELINE], options.pictures))


if __name__ == "__main__":
    main()
