"""Two captioners of different size and price, and a log of what both made of the same pictures.

Both retrieve the nearest caption. The small one compares tiny thumbnails with a few reference
pictures; the large one compares larger ones with many, by parts, and forgives what is hidden. Both
say 'a 3D render of a red apple on a white background'. Prices are CPU seconds, measured per
request.

    python -m workshop.bundled.captioners --data DATA --out benchmarks/captions/log.jsonl.gz
        --requests 10000
"""

import argparse
import gzip
import io
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image, ImageFilter

from halftime import bundled
from halftime.bundled.judge import Judge
from halftime.records.captions import Answer, Check, Logged
from halftime.verbs.captions import features
from workshop.bundled.artwork import (
    COLOURABLE,
    COLOURS,
    NOUNS,
    STYLES,
    Objects,
    caption,
    random_jitter,
)

KINDS = {"clean": 0.55, "hidden": 0.15, "noisy": 0.15, "tiny": 0.15}
PLAIN = (
    "What is in this picture?",
    "Caption this picture.",
    "A short caption, please.",
    "Alt text for this picture?",
)
THOROUGH = (
    "Describe this picture in detail.",
    "Describe everything: what it is, its colour and how it is drawn.",
)
SMALL_SIDE, LARGE_SIDE = 20, 40  # pixels of the captioners' thumbnails
HALF = slice(None, LARGE_SIDE // 2), slice(LARGE_SIDE // 2, None)
VIEWS = (
    (slice(None), slice(None)),
    *((half, slice(None)) for half in HALF),
    *((slice(None), half) for half in HALF),
)
KEPT = 40  # candidates of each view
TRIMMED = 0.6  # share of the pixels that counts
NONE = "as it is"
SHADES = (NONE, *COLOURS)
Labels = tuple[int, int, int]  # object, style, colour


@dataclass(frozen=True)
class Request:
    picture: bytes  # JPEG
    labels: Labels
    kind: str
    prompt: str
    thorough: bool


def request(objects: Objects, rng: np.random.Generator) -> Request:
    noun, style, kind = (
        int(rng.integers(len(NOUNS))),
        int(rng.integers(3)),
        str(rng.choice(list(KINDS), p=list(KINDS.values()))),
    )
    shade = (
        int(rng.integers(1, len(SHADES))) if NOUNS[noun] in COLOURABLE and rng.random() < 0.8 else 0
    )
    colour = SHADES[shade] if shade else None
    rendered = objects.draw(objects.of_noun[NOUNS[noun]], STYLES[style], colour, random_jitter(rng))
    thorough = bool(rng.random() < 0.2)
    prompt = str(rng.choice(THOROUGH if thorough else PLAIN))
    return Request(
        encoded(spoilt(rendered, kind, rng), rng), (noun, style, shade), kind, prompt, thorough
    )


def spoilt(picture: np.ndarray, kind: str, rng: np.random.Generator) -> Image.Image:
    image = Image.fromarray(picture).resize((256, 256), Image.Resampling.BICUBIC)
    if kind == "hidden":
        wide, high = rng.integers(90, 170, 2)
        left, top = rng.integers(20, 256 - wide - 10), rng.integers(20, 256 - high - 10)
        image.paste(
            tuple(int(v) for v in rng.integers(0, 255, 3)), (left, top, left + wide, top + high)
        )
    if kind == "noisy":
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 6))))
        noise = rng.normal(0, rng.uniform(20, 70), (256, 256, 3))
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if kind == "tiny":
        side = int(rng.integers(12, 40))
        image = image.resize((side, side), Image.Resampling.BOX)
    return image


def encoded(image: Image.Image, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(70, 95)))
    return buffer.getvalue()


def opened(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture)).convert("RGB")


def thumbnail(picture: bytes, side: int) -> np.ndarray:
    """side x side x 3 in 0..1, white being 0."""
    image = Image.open(io.BytesIO(picture))
    image.draft("RGB", (side * 2, side * 2))
    small = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return 1 - np.asarray(small, dtype=np.float32) / 255


class Small:
    """Nearest of a few reference pictures, by the cosine of tiny thumbnails."""

    def __init__(self, references: list[Request]) -> None:
        self.vectors = unit(
            np.stack([thumbnail(r.picture, SMALL_SIDE) for r in references]).reshape(
                len(references), -1
            )
        )
        self.labels = [r.labels for r in references]

    def __call__(self, picture: bytes) -> Labels:
        return self.labels[
            int((self.vectors @ unit(thumbnail(picture, SMALL_SIDE).reshape(-1))).argmax())
        ]


class Large:
    """Nearest of many: candidates by the cosine of the whole and of each half, then by a trimmed
    distance.

    The halves and the trimmed distance find what is partly hidden.
    """

    def __init__(self, references: list[Request]) -> None:
        self.pictures = np.stack([thumbnail(r.picture, LARGE_SIDE) for r in references])
        self.labels = [r.labels for r in references]
        self.views = [
            unit(self.pictures[:, v[0], v[1]].reshape(len(references), -1)) for v in VIEWS
        ]

    def __call__(self, picture: bytes) -> Labels:
        pixels = thumbnail(picture, LARGE_SIDE)
        near: set[int] = set()
        for view, vectors in zip(VIEWS, self.views, strict=True):
            near.update(
                np.argpartition(-(vectors @ unit(pixels[view[0], view[1]].reshape(-1))), KEPT)[
                    :KEPT
                ].tolist()
            )
        indices = np.fromiter(near, int)
        away = np.abs(self.pictures[indices] - pixels).sum(-1).reshape(len(indices), -1)
        best = np.partition(away, int(away.shape[1] * TRIMMED), axis=1)[
            :, : int(away.shape[1] * TRIMMED)
        ].mean(1)
        return self.labels[int(indices[best.argmin()])]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-3)


def caption_of(labels: Labels) -> str:
    noun, style, shade = labels
    return caption(NOUNS[noun], STYLES[style], SHADES[shade] if shade else None)


def quality(answer: Labels, example: Request) -> float:
    """1 for the right object; where everything was asked for, the share of object, style and colour
    that is right."""
    right = [a == b for a, b in zip(answer, example.labels, strict=True)]
    return sum(right) / 3 if example.thorough else float(right[0])


def timed(model, picture: bytes) -> tuple[Labels, float]:
    begun = time.thread_time()
    answer = model(picture)
    return answer, time.thread_time() - begun


def logged(example: Request, number: int, small: Small, large: Large, judge: Judge) -> Logged:
    quick, quick_seconds = timed(small, example.picture)
    slow, slow_seconds = timed(large, example.picture)
    begun = time.thread_time()
    score = judge.scores([opened(example.picture)], [caption_of(quick)])[0]
    check_seconds = time.thread_time() - begun
    values = [*features.of_picture(example.picture), *features.of_prompt(example.prompt)]
    return Logged(
        id=f"r{number}",
        prompt=example.prompt,
        features=tuple(float(f"{value:.4g}") for value in values),
        group=f"{features.fingerprint(example.picture):016x}",
        slice=example.kind,
        heavy=example.kind != "clean" and example.thorough,
        small=answered(quality(quick, example), quick_seconds),
        large=answered(quality(slow, example), slow_seconds),
        check=Check(
            score=round(score, 4), cost=round(check_seconds, 6), seconds=round(check_seconds, 6)
        ),
    )


def answered(how_good: float, seconds: float) -> Answer:
    return Answer(quality=round(how_good, 4), cost=round(seconds, 6), seconds=round(seconds, 6))


def captioners(data: Path, references: int) -> tuple[Small, Large, Objects]:
    objects, rng = Objects(data), np.random.default_rng(1)
    clean: list[Request] = []
    while len(clean) < references:
        example = request(objects, rng)
        clean += [example] if example.kind == "clean" else []
    return Small(clean[: references // 3]), Large(clean), objects


def means(rows: list[Logged], kind: str) -> str:
    pairs = [(row.small.quality, row.large.quality) for row in rows if row.slice == kind]
    return "{:.3f} {:.3f}".format(*np.mean(pairs, 0)) if pairs else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=12_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.thread_time()
    small, large, objects = captioners(args.data, args.references)
    print(f"fitted in {time.thread_time() - begun:.0f} CPU seconds", flush=True)
    judge, rng, rows = bundled.load_judge(), np.random.default_rng(2), []
    for number in range(args.requests):
        rows.append(logged(request(objects, rng), number, small, large, judge))
        if number % 500 == 499:
            print(number + 1, {kind: means(rows, kind) for kind in KINDS}, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(
        gzip.compress(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n", 9, mtime=0)
    )
    middle = {
        name: float(np.median([getattr(r, name).cost for r in rows]))
        for name in ("small", "large", "check")
    }
    print("median CPU seconds a request:", middle, "bytes:", args.out.stat().st_size)


if __name__ == "__main__":
    main()
