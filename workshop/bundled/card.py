"""The model card's pictures: a sheet of fixed prompts and seeds, a comparison, and the loss."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from halftime import bundled
from workshop.bundled.artwork import COLOURS, caption

SIDE, COLUMNS = 96, 12
SHOWN = (
    (
        "render",
        (
            "red apple, pineapple, hamburger, blue car, dog, penguin, rocket, green teapot, "
            "guitar, house, owl, crown"
        ),
    ),
    (
        "render",
        (
            "strawberry, purple butterfly, panda, robot, pizza, palm tree, tent, yellow balloon, "
            "crab, fox, ring, skull"
        ),
    ),
    (
        "flat",
        (
            "banana, cat, orange umbrella, red heart, pumpkin, bus, ghost, blue book, sunflower, "
            "light bulb, frog, key"
        ),
    ),
    (
        "flat",
        (
            "pear, red mushroom, tiger, camera, green gift, ice cream, anchor, purple fish, "
            "doughnut, trophy, bee, chair"
        ),
    ),
    (
        "pixel",
        (
            "cherries, yellow star, skull, red heart, monkey, sailboat, carrot, blue gem, cactus, "
            "chick, pizza, fox"
        ),
    ),
    (
        "pixel",
        (
            "green apple, robot, fir tree, purple shirt, lion, padlock, fire, red car, moon, "
            "snowman, bus, anchor"
        ),
    ),
)
COMPARED = (
    ("apple", "render", "red"),
    ("car", "render", "blue"),
    ("dog", "flat"),
    ("pizza", "flat"),
    ("fox", "pixel"),
)


def texts() -> list[str]:
    out = []
    for style, names in SHOWN:
        for name in names.split(", "):
            colour, _, noun = name.partition(" ")
            out.append(caption(noun, style, colour) if colour in COLOURS else caption(name, style))
    return out


def drawn(
    pipe: StableDiffusionXLPipeline, texts: Iterable[str], seed: int = 0, **settings: float
) -> list[Image.Image]:
    return [
        pipe(t, generator=torch.Generator().manual_seed(seed + i), **settings).images[0]
        for i, t in enumerate(texts)
    ]


def save_sheet(pictures: list[Image.Image], columns: int, path: Path) -> None:
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * SIDE, rows * SIDE), "white")
    for i, picture in enumerate(pictures):
        out.paste(
            picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS),
            (i % columns * SIDE, i // columns * SIDE),
        )
    out.save(path, optimize=True)


def save_losses(runs: Path, path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.2), layout="constrained")
    for axis, name in zip(axes, ("vae", "decoder", "unet", "judge"), strict=True):
        rows = [json.loads(line) for line in (runs / f"{name}.jsonl").read_text().splitlines()]
        axis.plot([r["step"] for r in rows], [r["loss"] for r in rows], linewidth=1)
        axis.set(title=f"{name}: loss", xlabel="steps", yscale="log")
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=bundled.FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = bundled.load()
    pipe.set_progress_bar_config(disable=True)
    save_sheet(
        drawn(pipe, texts(), num_inference_steps=30, guidance_scale=bundled.GUIDANCE),
        COLUMNS,
        args.out / "sheet.png",
    )
    compared = [caption(*which) for which in COMPARED]
    rows = [
        picture
        for settings in ({"num_inference_steps": 30}, {"num_inference_steps": 4})
        for seed in (100, 200)
        for picture in drawn(pipe, compared, seed, guidance_scale=bundled.GUIDANCE, **settings)
    ]
    order = np.arange(len(rows)).reshape(2, 2, len(compared)).transpose(0, 2, 1).ravel()
    save_sheet([rows[i] for i in order], 2 * len(compared), args.out / "steps.png")
    save_losses(args.runs, args.out / "losses.png")


if __name__ == "__main__":
    main()
