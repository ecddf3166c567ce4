"""What size of fault does `verify` find, by its kind and the content, and how often is it wrong?

Regime: pictures of the bundled model (48, three classes of 16, 128 px, 30 steps), or any folder
with --pictures (the committed result read such pictures, rendered before with the same settings).
Each kind of fault is planted in all of them at several sizes and measured once;
then sets of 24 pairs are drawn with replacement from a class, so a curve knows no other pictures.
False alarms: sets of 5 to 48 pairs whose change nobody sees. Rare faults: one pair of a set is
wrong, all others are rounded. Ceiling: none; this is about decisions, not time.

    python -m benchmarks.verify.faults --out benchmarks/results/verify_faults.json
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.frame import Frame
from halftime.pipeline.load import load
from halftime.records import Workload
from halftime.verbs.verify.decide import compare, overall
from halftime.verbs.verify.floor import (
    eight_bit,
    floor_entries,
    noise_floor,
    unrelated_distances,
)
from halftime.verbs.verify.judge import find
from halftime.verbs.verify.metrics import Kit, kit
from halftime.verbs.verify.outliers import outliers
from halftime.verbs.verify.pictures import Picture, PictureSet, read_folder
from halftime.verbs.verify.render import prompt_set, render
from halftime.verbs.verify.run import MARGIN

PAIRS, DRAWS = 24, 40
NULL_COUNTS, NULL_DRAWS = (5, 12, 24, 48), 60
RARE_COUNTS, RARE_DRAWS = (24, 100, 500), 40
SURE = 0.95
Fault = Callable[[np.ndarray, float], np.ndarray]  # pixels as floats, size -> pixels


def jpeg(subsampling: int) -> Fault:
    def coded(pixels: np.ndarray, quality: float) -> np.ndarray:
        file = io.BytesIO()
        image(pixels).save(file, "JPEG", quality=int(quality), subsampling=subsampling)
        return np.asarray(Image.open(file).convert("RGB"), dtype=float)

    return coded


def image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def noise(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return pixels + np.random.default_rng(int(pixels.sum())).normal(0, sigma, pixels.shape)


def shift(pixels: np.ndarray, distance: float) -> np.ndarray:
    whole, part = int(distance), distance % 1
    near, far = (np.roll(pixels, whole + step, axis=1) for step in (0, 1))
    return (1 - part) * near + part * far


def patch(pixels: np.ndarray, side: float) -> np.ndarray:
    """An inverted square in the middle, where the content is."""
    changed, size = pixels.copy(), int(side)
    top, left = (length // 2 - size // 2 for length in pixels.shape[:2])
    square = changed[top : top + size, left : left + size]
    changed[top : top + size, left : left + size] = 255 - square
    return changed


def banded(pixels: np.ndarray, levels: float) -> np.ndarray:
    return np.round(pixels / 255 * (levels - 1)) / (levels - 1) * 255


def less_colour(pixels: np.ndarray, percent: float) -> np.ndarray:
    return np.asarray(ImageEnhance.Color(image(pixels)).enhance(1 - percent / 100), dtype=float)


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(image(pixels).filter(ImageFilter.GaussianBlur(radius)), dtype=float)


# kind -> unit, sizes from the smallest to the largest, function
KINDS: dict[str, tuple[str, tuple[float, ...], Fault]] = {
    "darker": ("grey levels", (1, 2, 4, 8), lambda pixels, size: pixels - size),
    "less red": ("grey levels", (1, 2, 4, 8), lambda pixels, size: pixels - [size, 0, 0]),
    "less colour": ("%", (2, 5, 10, 20), less_colour),
    "noise": ("grey levels", (1, 2, 4, 8), noise),
    "blur": ("px", (0.25, 0.4, 0.6, 1.0), blurred),
    "shift": ("px", (0.1, 0.25, 0.5, 1), shift),
    "banding": ("levels", (128, 64, 32, 16), banded),
    "JPEG 4:4:4": ("quality", (98, 95, 85, 70), jpeg(0)),
    "JPEG 4:2:0": ("quality", (98, 95, 85, 70), jpeg(2)),
    "inverted square": ("px", (2, 4, 8, 16), patch),
}
# What nobody sees.
NULLS: dict[str, tuple[float, Fault]] = {
    "one grey level brighter": (1, lambda pixels, size: pixels + size),
    "noise of 0.7 grey levels": (0.7, noise),
    "JPEG 98, 4:4:4": (98, jpeg(0)),
    "blur of 0.25 px": (0.25, blurred),
    "less red by 1": (1, lambda pixels, size: pixels - [size, 0, 0]),
}
RARE: dict[str, Fault] = {
    "an inverted square of 8 px": lambda pixels, _: patch(pixels, 8),
    "blurred by 3 px": lambda pixels, _: blurred(pixels, 3),
    "JPEG 20": lambda pixels, _: jpeg(2)(pixels, 20),
    "40 grey levels darker": lambda pixels, _: pixels - 40,
}


def planted(picture: Picture, fault: Fault, size: float) -> Picture:
    pixels = fault(picture.pixels.astype(float), size)
    return replace(picture, pixels=np.asarray(image(pixels)))


class Judgement:
    """What `verify` says of measured pairs, without measuring them again."""

    def __init__(self, baseline: PictureSet, tools: Kit) -> None:
        self.pictures, self.tools = baseline.pictures, tools
        self.unrelated = unrelated_distances(baseline, tools)
        self.floor = noise_floor(floor_entries(baseline, {}, tools))

    def rows(self, fault: Fault, size: float) -> list[dict[str, float]]:
        return [self.tools.measure(p, planted(p, fault, size)) for p in self.pictures]

    def verdict(self, pairs: Sequence[int], rows: Sequence[dict[str, float]]) -> str:
        pictures = [self.pictures[i] for i in pairs]
        if outliers(pictures, rows, self.floor, self.unrelated, MARGIN):
            return "different"
        classes = [picture.content_class for picture in pictures]
        return overall(compare(rows, classes, self.floor, MARGIN))

    def shares(self, draws: Sequence[tuple[Sequence[int], list[dict[str, float]]]]) -> dict:
        """The share of each verdict, in these draws of pairs and their rows."""
        verdicts = Counter(self.verdict(pairs, rows) for pairs, rows in draws)
        words = ("different", "equivalent", "inconclusive")
        return {word: verdicts[word] / len(draws) for word in words}


def sizes(judgement: Judgement) -> list[dict]:
    """One row for each kind, size and class."""
    classes = [picture.content_class for picture in judgement.pictures]
    result = []
    for kind, (unit, steps, fault) in KINDS.items():
        for size in steps:
            measured = judgement.rows(fault, size)
            for name in dict.fromkeys(classes):
                members = [i for i, content_class in enumerate(classes) if content_class == name]
                rng = np.random.default_rng(0)
                draws = [rng.choice(members, PAIRS) for _ in range(DRAWS)]
                row = {"kind": kind, "unit": unit, "size": size, "class": name}
                for metric in ("flip", "flip_local", "ms_ssim"):
                    mean = float(np.mean([measured[i][metric] for i in members]))
                    row[metric] = mean / judgement.floor[metric]
                row |= judgement.shares([(d, [measured[i] for i in d]) for d in draws])
                result.append(row)
            print(f"{kind:16s} {size:5g} {unit:12s}", *_words(result[-3:]), flush=True)
    return result


def _words(rows: list[dict]) -> list[str]:
    return [f"{r['class']}: {r['different']:.0%} / {r['equivalent']:.0%} |" for r in rows]


def false_alarms(judgement: Judgement) -> list[dict]:
    """One row for each change that nobody sees and number of pairs."""
    measured = {"rounding": _rounded(judgement, 1000)}
    for name, (size, fault) in NULLS.items():
        measured[name] = judgement.rows(fault, size)
    result = []
    for name, rows in measured.items():
        for count in NULL_COUNTS:
            rng = np.random.default_rng(count)
            # All pictures make one set only: there the pairs are drawn with replacement.
            again = count == len(rows)
            draws = [rng.choice(len(rows), count, replace=again) for _ in range(NULL_DRAWS)]
            shares = judgement.shares([(d, [rows[i] for i in d]) for d in draws])
            result.append({"change": name, "pairs": count, "comparisons": NULL_DRAWS} | shares)
            print(f"{name:26s} {count:3d} pairs", shares, flush=True)
    return result


def _rounded(judgement: Judgement, seed: int) -> list[dict[str, float]]:
    pictures = judgement.pictures
    return [judgement.tools.measure(p, eight_bit(p, seed + i)) for i, p in enumerate(pictures)]


def rare(judgement: Judgement) -> list[dict]:
    """One row for each fault of a single pair and number of pairs; the others are rounded."""
    harmless = _rounded(judgement, 2000)
    pictures = judgement.pictures
    measured = {
        "another prompt's picture": [
            judgement.tools.measure(p, replace(pictures[i - 1], name=p.name))
            for i, p in enumerate(pictures)
        ]
    }
    measured |= {name: judgement.rows(fault, 0) for name, fault in RARE.items()}
    result = []
    for name, faulty in measured.items():
        for count in RARE_COUNTS:
            rng = np.random.default_rng(count)
            draws = []
            for _ in range(RARE_DRAWS):
                pairs = rng.choice(len(pictures), count)
                rows = [harmless[i] for i in pairs]
                rows[0] = faulty[pairs[0]]
                draws.append((pairs, rows))
            shares = judgement.shares(draws)
            result.append({"fault": name, "pairs": count} | shares)
            print(f"{name:28s} 1 of {count:3d}", shares, flush=True)
    return result


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--pictures", type=Path, help="a folder, instead of rendering")
    frame.parser.add_argument("--prompts", type=int, default=48)
    options = frame.parse()
    if options.pictures:
        baseline = read_folder(options.pictures).first(options.prompts)
    else:
        workload = Workload(steps=30, dtype="float32", guidance=2.5)
        pipeline = load(None, workload).pipeline
        baseline = render(pipeline, workload, prompt_set(workload, options.prompts), "baseline")
    tools = kit(list(baseline.pictures), find(None), "not asked for")
    tools = tools.only({"flip", "flip_local", "ms_ssim", "agreement"})
    judgement = Judgement(baseline, tools)
    result = {
        "prompts": len(baseline.pictures),
        "margin": MARGIN,
        "pairs": PAIRS,
        "draws": DRAWS,
        "floor": judgement.floor,
        "false_alarms": false_alarms(judgement),
        "rare": rare(judgement),
    }
    frame.write(result)
    frame.write(result | {"sizes": sizes(judgement)})


if __name__ == "__main__":
    main()
