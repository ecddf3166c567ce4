"""Sets of pictures: plain arrays with names, prompts and classes; from a folder and to one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from halftime.base.errors import BadFile, BadInput, Unlike
from halftime.base.store import read_bytes, write_bytes

Array = NDArray[np.uint8]  # height, width, 3
Latent = NDArray[np.float32]  # channels, height, width
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")
INDEX = "prompts.toml"
UNSORTED = "unsorted"  # the class of a picture that names none


@dataclass(frozen=True)
class Picture:
    """One picture, as a viewer gets it; `broken`: what was wrong before it became 8-bit."""

    name: str
    pixels: Array
    content_class: str = UNSORTED
    prompt: str = ""
    latent: Latent | None = None
    broken: str = ""


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

    Raises BadFile for a folder without pictures, or a picture that cannot be read.
    """
    if not folder.is_dir():
        raise BadFile(
            f"{folder} is not a folder. Name a folder of pictures, a recipe's TOML file, or "
            "'baseline'."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise BadFile(f"{folder} contains no pictures. Pictures end with: {', '.join(SUFFIXES)}.")
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
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise BadFile(f"{path} cannot be read as a picture: {error}.") from error
    return Picture(
        relative.with_suffix("").as_posix(), pixels, content_class, row.get("prompt", "")
    )


def write_folder(folder: Path, pictures: PictureSet) -> None:
    """Write PNG files and their index, to be read again with `read_folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for picture in pictures.pictures:
        path = folder / f"{picture.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(path)
        rows.append(
            {
                "file": f"{picture.name}.png",
                "class": picture.content_class,
                "prompt": picture.prompt,
            }
        )
    write_bytes(folder / INDEX, tomli_w.dumps({"pictures": rows}).encode())


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
