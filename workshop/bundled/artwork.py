"""Builds the pictures: every object at 256 px with alpha (3D render, flat icon), and how to draw
one at 128 px."""

import argparse
import io
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
VOCABULARY = tomllib.loads((HERE / "vocabulary.toml").read_text())
STYLES: tuple[str, ...] = tuple(VOCABULARY["styles"])
COLOURS: dict[str, int] = VOCABULARY["colours"]["names"]
COLOURABLE: frozenset[str] = frozenset(VOCABULARY["colours"]["objects"])
NOUNS: tuple[str, ...] = tuple(VOCABULARY["objects"].values())
SIZE, BLOCK, SOURCE = 128, 8, 256
LEFT_OUT = {"Flags", "People & Body", "Symbols"}
HELD_OUT_EVERY = 14  # of the objects outside the vocabulary


@dataclass(frozen=True, slots=True)
class Jitter:
    """Shift in pixels of the 128 px picture, the longest side as a share of it, a turn in degrees,
    mirroring."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 0.875
    turn: float = 0.0
    mirrored: bool = False


CENTRED = Jitter()


def random_jitter(rng: np.random.Generator) -> Jitter:
    dx, dy = rng.uniform(-7, 7, 2)
    mirrored = bool(rng.random() < 0.4)
    return Jitter(
        float(dx), float(dy), float(rng.uniform(0.74, 0.90)), float(rng.uniform(-7, 7)), mirrored
    )


def article(noun: str) -> str:
    if noun in (
        "cherries",
        "grapes",
        "pancakes",
        "french fries",
        "scissors",
        "sunglasses",
        "jeans",
    ):
        return noun
    if noun in ("bread", "cheese", "popcorn", "fire", "ice cream"):
        return noun
    if noun in ("sun", "moon"):
        return f"the {noun}"
    return f"an {noun}" if noun[0] in "aeiou" and not noun.startswith("uni") else f"a {noun}"


def caption(noun: str, style: str, colour: str | None = None) -> str:
    return str(VOCABULARY["styles"][style].format(article(f"{colour} {noun}" if colour else noun)))


def codepoints(emoji: str) -> tuple[str, str]:
    full = "-".join(f"{ord(c):x}" for c in emoji)
    return full, "-".join(f"{ord(c):x}" for c in emoji if ord(c) != 0xFE0F)


def framed(picture: Image.Image) -> np.ndarray:
    """The picture's own bounding box, centred on a square of 256 px."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    if box is not None:
        picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((SOURCE, SOURCE), Image.Resampling.LANCZOS))


def build(npm: Path, out: Path) -> None:
    import resvg_py

    names = json.loads((npm / "unicode-emoji-json/data-by-emoji.json").read_text())
    solid, flat = npm / "@lobehub/fluent-emoji-3d/assets", npm / "@lobehub/fluent-emoji-flat/assets"
    object_names: list[str] = []
    pictures: list[np.ndarray] = []
    for emoji, facts in names.items():
        in_vocabulary = facts["name"] in VOCABULARY["objects"]
        if facts["group"] in LEFT_OUT and not in_vocabulary:
            continue
        code = next(
            (
                c
                for c in codepoints(emoji)
                if (solid / f"{c}.webp").exists() and (flat / f"{c}.svg").exists()
            ),
            None,
        )
        if code is None:
            continue
        svg = resvg_py.svg_to_bytes(
            svg_string=(flat / f"{code}.svg").read_text(), width=512, height=512
        )
        pair = (Image.open(solid / f"{code}.webp"), Image.open(io.BytesIO(bytes(svg))))
        pictures.append(np.stack([framed(p) for p in pair]))
        object_names.append(facts["name"])
    missing = set(VOCABULARY["objects"]) - set(object_names)
    if missing:
        raise SystemExit(
            f"No picture for {sorted(missing)}: correct these names in vocabulary.toml."
        )
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "pictures.npy", np.stack(pictures))
    (out / "names.json").write_text(json.dumps(object_names))
    print(f"{len(object_names)} objects, {len(NOUNS)} of them in the vocabulary")


class Objects:
    """All objects' sources, and how to draw each in a style and a colour."""

    def __init__(self, data: Path) -> None:
        self.sources = np.load(data / "pictures.npy", mmap_mode="r")
        names = json.loads((data / "names.json").read_text())
        vocabulary = VOCABULARY["objects"]
        self.of_noun = {vocabulary[n]: i for i, n in enumerate(names) if n in vocabulary}
        outside = [i for i, n in enumerate(names) if n not in vocabulary]
        self.held_out = outside[::HELD_OUT_EVERY]
        self.others = [i for i in outside if i not in set(self.held_out)]

    def draw(
        self, index: int, style: str, colour: str | None = None, jitter: Jitter = CENTRED
    ) -> np.ndarray:
        """HWC uint8, on white."""
        source = np.array(self.sources[index, 0 if style == "render" else 1])
        if colour is not None:
            source = recoloured(source, COLOURS[colour])
        source = source[:, ::-1].copy() if jitter.mirrored else source
        return pixelated(source, jitter) if style == "pixel" else placed(source, jitter)


def recoloured(rgba: np.ndarray, hue: int) -> np.ndarray:
    """Turns the main hue (weighted by saturation) and what is near it to `hue`, in degrees."""
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.float32)
    h, s, v = hsv[..., 0] * (360 / 255), hsv[..., 1] / 255, hsv[..., 2] / 255
    weight = s * v * (rgba[..., 3] > 128) * (s > 0.3)
    counts, edges = np.histogram(h, bins=36, range=(0, 360), weights=weight)
    wide = counts + np.roll(counts, 1) + np.roll(counts, -1)
    main = edges[int(wide.argmax())] + 5
    away = (h - main + 180) % 360 - 180
    near = (np.abs(away) < 60) & (s > 0.12)
    turned = np.where(near, (hue + away * 0.5) % 360, h)
    out = np.stack([turned * (255 / 360), hsv[..., 1], hsv[..., 2]], -1).round().astype(np.uint8)
    return np.dstack([np.asarray(Image.fromarray(out, "HSV").convert("RGB")), rgba[..., 3]])


def on_white(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture).astype(np.float32)
    alpha = array[..., 3:] / 255
    return (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def placed(rgba: np.ndarray, jitter: Jitter) -> np.ndarray:
    side = max(8, round(SIZE * 2 * jitter.scale))
    small = Image.fromarray(rgba).resize((side, side), Image.Resampling.LANCZOS)
    if jitter.turn:
        small = small.rotate(jitter.turn, Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (SIZE * 2, SIZE * 2))
    corner = (round(SIZE - side / 2 + 2 * jitter.dx), round(SIZE - side / 2 + 2 * jitter.dy))
    canvas.paste(small, corner)
    return on_white(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))


def pixelated(rgba: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Blocks of 8 px on the latents' own grid, at most 10 colours, no half-transparent edge."""
    cells = SIZE // BLOCK
    side = round(cells * jitter.scale) if jitter != CENTRED else 14
    small = np.asarray(Image.fromarray(rgba).resize((side, side), Image.Resampling.BOX))
    solid = small[..., 3] > 110
    colour = np.where(solid[..., None], small[..., :3], 255).astype(np.uint8)
    few = Image.fromarray(colour).quantize(10, Image.Quantize.MAXCOVERAGE).convert("RGB")
    grid = np.full((cells, cells, 3), 255, np.uint8)
    free = cells - side
    top = int(np.clip(round(free / 2 + jitter.dy / BLOCK), 0, free))
    left = int(np.clip(round(free / 2 + jitter.dx / BLOCK), 0, free))
    grid[top : top + side, left : left + side] = np.where(solid[..., None], np.asarray(few), 255)
    return grid.repeat(BLOCK, 0).repeat(BLOCK, 1)


def sheet(pictures: list[np.ndarray], columns: int) -> Image.Image:
    rows = -(-len(pictures) // columns)
    size = pictures[0].shape[0]
    out = Image.new("RGB", (columns * size, rows * size), "white")
    for i, picture in enumerate(pictures):
        out.paste(Image.fromarray(picture), (i % columns * size, i // columns * size))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    build(args.data / "npm/node_modules", args.data)
