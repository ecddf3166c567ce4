"""Sets of pictures: plain arrays with names, prompts and classes; from a folder and to one."""

from __future__ import annotations

import io
import os
import struct
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from halftime.base.errors import BadFile, BadInput, Unlike
from halftime.base.store import read_bytes, write_bytes

Array = NDArray[np.uint8]  # height, width, 3
Alpha = NDArray[np.uint8]  # height, width; 255 is opaque
Latent = NDArray[np.float32]  # channels, height, width
SUFFIXES = (
    ".png",
    ".webp",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".apng",
    ".jfif",
)
# Of what shows pictures and is not read here -> how to get pictures of it.
_UNREAD = {
    **dict.fromkeys(
        (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v"),
        "write its frames as pictures, `ffmpeg -i FILM frames/%04d.png`",
    ),
    **dict.fromkeys(
        (".npy", ".npz", ".pt", ".safetensors", ".exr", ".jxl", ".heic", ".jp2", ".ppm", ".svg"),
        "save it as PNG",
    ),
}
# What Pillow raises for files that are damaged, of whatever format.
_FAULTS = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
INDEX = "prompts.toml"
_WHITE_16 = 65535
FEWEST_PIXELS = 5  # pixels a side: the window of MS-SSIM
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
    notes: tuple[str, ...] = ()  # what stood beside the pictures and was not compared

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
    present = sorted(_visible(folder))
    files = [path for path in present if path.suffix.lower() in SUFFIXES]
    unread = [path for path in present if path.suffix.lower() in _UNREAD]
    if not files:
        beside = f" It holds {_unread_words(unread, folder)}." if unread else ""
        raise BadFile(
            f"{folder} contains no pictures. Pictures end with: {', '.join(SUFFIXES)}.{beside}"
        )
    names: dict[str, Path] = {}
    for path in files:
        name = _name(path, folder)
        if name in names:
            raise BadFile(
                f"{folder} has two pictures called {name!r}: {names[name].name} and {path.name}. "
                "Pictures are paired by name without its ending: remove or rename one."
            )
        names[name] = path
    index = _read_index(folder / INDEX)
    notes = [f"Not compared: {_unread_words(unread, folder)}."] if unread else []
    absent = [file for file in index if not (folder / file).is_file()]
    if absent:
        notes.append(f"{folder / INDEX} names {absent[0]!r}, and there is no such file.")
    return PictureSet(
        str(folder), tuple(_read(path, folder, index) for path in files), tuple(notes)
    )


def _visible(folder: Path) -> Iterator[Path]:
    """The files under a folder, behind links too, without those that systems and editors hide."""
    for current, folders, names in os.walk(folder, followlinks=True):
        here = Path(current)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() not in _around(here)
        ]
        yield from (here / name for name in names if not name.startswith("."))


def _around(folder: Path) -> set[Path]:
    """A folder and what it lies in: a link to one of these would lead round in a circle."""
    return {parent.resolve() for parent in (folder, *folder.parents)}


def _name(path: Path, folder: Path) -> str:
    """What pairs a picture; systems differ in how they write an accent."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def _unread_words(files: list[Path], folder: Path) -> str:
    first = files[0]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{first.relative_to(folder)}{more} ({_UNREAD[first.suffix.lower()]})"


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = tomllib.loads(read_bytes(path).decode())["pictures"]
        return {row["file"]: {key: str(value) for key, value in row.items()} for row in rows}
    except (
        tomllib.TOMLDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise BadFile(
            f"{path} is not a list of pictures with file, class and prompt: {error}."
        ) from error


def _read(path: Path, folder: Path, index: dict[str, dict[str, str]]) -> Picture:
    relative = path.relative_to(folder)
    row = index.get(relative.as_posix(), {})
    content_class = row.get("class") or (relative.parts[0] if len(relative.parts) > 1 else UNSORTED)
    try:
        with Image.open(path) as image:
            pixels, alpha = _frames(image)
        if min(pixels.shape[:2]) < FEWEST_PIXELS:
            raise ValueError(
                f"{pixels.shape[1]}x{pixels.shape[0]} pixels are too few; at least "
                f"{FEWEST_PIXELS} a side"
            )
    except _FAULTS as error:
        raise BadFile(f"{path} cannot be read as a picture: {error}.") from error
    return Picture(_name(path, folder), pixels, content_class, row.get("prompt", ""), alpha=alpha)


def _frames(image: Image.Image) -> tuple[Array, Alpha | None]:
    """A picture that moves, or has pages, as its frames one below the other, as films are that are
    drawn here. Of a photograph's additions (MPO) only the picture itself."""
    if getattr(image, "n_frames", 1) == 1 or image.format == "MPO":
        return _on_white(ImageOps.exif_transpose(image))
    frames = [_on_white(ImageOps.exif_transpose(f)) for f in ImageSequence.Iterator(image)]
    if len({pixels.shape for pixels, _ in frames}) > 1:
        raise ValueError("its pages differ in size")
    opaque = [np.full(pixels.shape[:2], 255, np.uint8) for pixels, _ in frames]
    alphas = [full if own is None else own for full, (_, own) in zip(opaque, frames, strict=True)]
    see_through = any(own is not None for _, own in frames)
    return np.concatenate([pixels for pixels, _ in frames]), (
        np.concatenate(alphas) if see_through else None
    )


def _on_white(image: Image.Image) -> tuple[Array, Alpha | None]:
    """The 8-bit RGB picture on a white page, and its alpha where some of it is not opaque."""
    if image.mode.startswith(("I", "F")):  # which Pillow would clip at 255
        return _grey(image), None
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    values = np.asarray(image.convert("RGBA"))
    alpha = values[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(values[..., :3]), None
    share = alpha[..., None] / 255
    pixels = np.round(values[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return pixels, alpha


def _grey(image: Image.Image) -> Array:
    """Grey of 16 bits, at 8. Raises ValueError for other numbers, whose white nobody knows."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > _WHITE_16:
        raise ValueError(
            "its values are not those of 8 or 16 bits, so what is white in it is unknown; save it "
            "as PNG"
        )
    return np.round(values * (255 / _WHITE_16)).astype(np.uint8)[..., None].repeat(3, axis=-1)


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
    broken = "" if finite else "it holds NaN or infinity"
    if latent is not None and not np.isfinite(latent).all():
        latent = np.nan_to_num(latent, nan=0.0, posinf=0.0, neginf=0.0)
        broken = broken or "its latents hold NaN or infinity"
    return Picture(name, pixels, content_class, prompt, latent, broken)
