"""Sets of pictures: plain arrays with names, prompts and classes; from a folder and to one."""

from __future__ import annotations

import io
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from halftime.base.errors import BadFile, BadInput, Unlike
from halftime.base.store import read_bytes, write_bytes

Array = NDArray[np.uint8]  # height, width, 3
Alpha = NDArray[np.uint8]  # height, width; 255 is opaque
Latent = NDArray[np.float32]  # channels, height, width
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
INDEX = "prompts.toml"
UNSORTED = "unsorted"  # the class of a picture that names none


@dataclass(frozen=True, eq=False)  # two pictures with equal pixels are still two
class Picture:
    """One picture, as a viewer gets it on a white page.

    `alpha` is None for an opaque picture; `broken` says what was wrong before it became 8-bit.
    """

    name: str
    pixels: Array
    content_class: str = UNSORTED
    prompt: str = ""
    latent: Latent | None = None
    broken: str = ""
    alpha: Alpha | None = None

    def on_black(self) -> Picture:
        """The same picture on a black page."""
        if self.alpha is None:
            return self
        page = 255 - self.alpha[..., None].astype(np.int16)  # the white that shows through
        pixels = np.clip(self.pixels - page, 0, 255).astype(np.uint8)
        return replace(self, pixels=pixels, alpha=None)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one configuration, in the order of their prompts."""

    label: str
    pictures: tuple[Picture, ...]

    def first(self, count: int) -> PictureSet:
        """The first `count` pictures."""
        return replace(self, pictures=self.pictures[:count])


def read_folder(folder: Path) -> PictureSet:
    """All pictures under a folder; a subfolder's name is its class; `prompts.toml` may say more.

    Raises BadFile for a folder without pictures, a picture that cannot be read, or two of one name.
    """
    if not folder.is_dir():
        raise BadFile(
            f"{folder} is not a folder. Name a folder of pictures, a recipe's TOML file, or "
            "'baseline'."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise BadFile(f"{folder} contains no pictures. Pictures end with: {', '.join(SUFFIXES)}.")
    names: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in names:
            raise BadFile(
                f"{folder} has two pictures called {name!r}: {names[name].name} and {path.name}. "
                "Pictures are paired by name without its ending: remove or rename one."
            )
        names[name] = path
    index = _read_index(folder / INDEX)
    return PictureSet(str(folder), tuple(_read(path, folder, index) for path in files))


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = tomllib.loads(read_bytes(path).decode())["pictures"]
        return {row["file"]: row for row in rows}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BadFile(
            f"{path} is not a list of pictures with file, class and prompt: {error}."
        ) from error


def _read(path: Path, folder: Path, index: dict[str, dict[str, str]]) -> Picture:
    relative = path.relative_to(folder)
    row = index.get(relative.as_posix(), {})
    content_class = row.get("class") or (relative.parts[0] if len(relative.parts) > 1 else UNSORTED)
    try:
        with Image.open(path) as image:
            pixels, alpha = _on_white(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError) as error:
        raise BadFile(f"{path} cannot be read as a picture: {error}.") from error
    name = relative.with_suffix("").as_posix()
    return Picture(name, pixels, content_class, row.get("prompt", ""), alpha=alpha)


def _on_white(image: Image.Image) -> tuple[Array, Alpha | None]:
    """The 8-bit RGB picture on a white page, and its alpha where some of it is not opaque."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image, dtype=np.float64) / 257
        return np.round(grey).astype(np.uint8)[..., None].repeat(3, axis=-1), None
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    values = np.asarray(image.convert("RGBA"))
    alpha = values[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(values[..., :3]), None
    share = alpha[..., None] / 255
    pixels = np.round(values[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return pixels, alpha


def write_folder(folder: Path, pictures: PictureSet) -> None:
    """Write PNG files and their index, to be read again with `read_folder`."""
    rows = []
    for picture in pictures.pictures:
        path = folder / f"{picture.name}.png"
        buffer = io.BytesIO()
        _image(picture).save(buffer, format="PNG")
        write_bytes(path, buffer.getvalue())
        rows.append(
            {
                "file": f"{picture.name}.png",
                "class": picture.content_class,
                "prompt": picture.prompt,
            }
        )
    write_bytes(folder / INDEX, tomli_w.dumps({"pictures": rows}).encode())


def _image(picture: Picture) -> Image.Image:
    """As it was before it came to stand on white."""
    if picture.alpha is None:
        return Image.fromarray(picture.pixels)
    share = np.maximum(picture.alpha, 1)[..., None] / 255
    colours = (picture.pixels - 255 * (1 - share)) / share
    rgb = np.round(np.clip(colours, 0, 255)).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, picture.alpha]))


def paired(baseline: PictureSet, candidate: PictureSet) -> list[tuple[Picture, Picture]]:
    """Pairs by name. Raises Unlike, naming what one of them lacks."""
    for left, right in ((baseline, candidate), (candidate, baseline)):
        names = {picture.name for picture in right.pictures}
        missing = [picture.name for picture in left.pictures if picture.name not in names]
        if missing:
            raise Unlike(
                f"{right.label} lacks {len(missing)} of the pictures of {left.label}, for example "
                f"{missing[0]!r}. Both sets need the same names: one picture a prompt and seed."
            )
    by_name = {picture.name: picture for picture in candidate.pictures}
    return [(picture, by_name[picture.name]) for picture in baseline.pictures]


def from_floats(
    values: NDArray[np.floating],
    name: str,
    content_class: str,
    prompt: str,
    latent: Latent | None = None,
) -> Picture:
    """One picture from floats in 0..1, shape (height, width, 3); notes what was wrong with them."""
    if values.ndim != 3 or values.shape[-1] != 3:
        raise BadInput(
            f"picture {name} has the shape {values.shape}; verify compares RGB pictures "
            "(height, width, 3)."
        )
    finite = bool(np.isfinite(values).all())
    clean = values if finite else np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.round(np.clip(clean, 0, 1) * 255).astype(np.uint8)
    return Picture(
        name, pixels, content_class, prompt, latent, "" if finite else "it holds NaN or infinity"
    )
