"""What a router can look at within milliseconds: statistics of a thumbnail and of the prompt.

A JPEG is read at an eighth of its size (libjpeg's scaled DCT, Pillow's draft mode). Other formats
must be decoded whole, which takes longer: `effort` says how much.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halftime.base.errors import HalftimeError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
THUMBNAIL = 64  # pixels a side
MOST_PIXELS = 36_000_000  # of a picture that must be decoded whole
_EFFORTLESS = 256 * 256  # pixels that are decoded as fast as a JPEG is read at an eighth
FLAT = 0.02  # differences that compression or noise make on a flat ground
MOST_BYTES = 32 * 2**20  # of a picture's file


class NotSeen(HalftimeError):
    """The picture cannot be looked at cheaply, or not at all."""


def thumbnail(picture: bytes) -> tuple[Array, tuple[int, int]]:
    """A 64 x 64 x 3 thumbnail in 0..1, and the picture's own width and height in pixels.

    Raises NotSeen.
    """
    if len(picture) > MOST_BYTES:
        raise NotSeen(
            f"a picture of {len(picture):,} bytes is not looked at; the most is {MOST_BYTES:,}."
        )
    try:
        image = Image.open(io.BytesIO(picture))
        size = image.size
        image.draft("RGB", (THUMBNAIL, THUMBNAIL))
        if image.width * image.height > MOST_PIXELS:
            raise NotSeen(
                f"a {image.format} of {size[0]} x {size[1]} pixels is not looked at; the most is "
                f"{MOST_PIXELS:,} pixels."
            )
        small = image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotSeen(f"the picture cannot be decoded: {error}.") from error
    return np.asarray(small, dtype=np.float64) / 255, size


def effort(picture: bytes) -> float:
    """How many times as much work a look at this picture is as one at a JPEG: 1.0 or more."""
    if picture[:2] == b"\xff\xd8":  # a JPEG
        return 1.0
    try:
        width, height = Image.open(io.BytesIO(picture)).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1.0
    return max(1.0, width * height / _EFFORTLESS)


def media_type(picture: bytes) -> str:
    """What a data URL calls the picture, by its bytes and not by its name."""
    try:
        kind = Image.MIME.get(Image.open(io.BytesIO(picture)).format or "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        kind = None
    return kind or "application/octet-stream"


def _grey(small: Array) -> Array:
    return np.asarray(small @ np.array([0.299, 0.587, 0.114]))


def _colours(small: Array) -> float:
    """How many of 4,096 colours occur, on a logarithmic scale."""
    cells = (small * 15.999).astype(np.intp)
    codes = cells[..., 0] * 256 + cells[..., 1] * 16 + cells[..., 2]
    return float(np.log1p(np.count_nonzero(np.bincount(codes.ravel(), minlength=4096))))


def _extremes(small: Array) -> tuple[Array, Array]:
    """The largest and the smallest channel of each pixel, faster than along an axis of three."""
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def _edges(grey: Array) -> tuple[float, float]:
    """Share of strong steps, and the median step, which is 0 in flat art and above in noise."""
    steps = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    return float((steps > 0.15).mean()), float(np.median(steps))


def _extent(small: Array) -> tuple[float, float]:
    """Share of background (like the corners' median), and the side of the box of the object."""
    corners = np.median(small[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
    away = _extremes(np.abs(small - corners))[0] > 0.12
    rows, columns = np.flatnonzero(away.any(1)), np.flatnonzero(away.any(0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1 if len(rows) and len(columns) else 0
    return float(1 - away.mean()), float(side) / THUMBNAIL


def _grid(small: Array) -> list[float]:
    """Mean colours on a 4 x 4 grid, row by row: a small embedding."""
    cell = THUMBNAIL // 4
    return [
        float(v)
        for v in small.reshape(4, cell, 4, cell, 3).sum(axis=1).sum(axis=2).ravel() / cell**2
    ]


# Wishes that make a request harder; matched as words.
_WISHES = {
    "asks for detail": r"detail|describe|everything|long|paragraph",
    "asks to read": r"read|text|written|ocr|sign|label",
    "asks to count": r"how many|count|number",
    "asks to compare": r"compare|difference|versus",
    "asks for structure": r"json|list|table|bullet",
    "asks why": r"why|explain|reason",
}
_PATTERNS: tuple[Callable[[str], object], ...] = tuple(
    re.compile(rf"\b(?:{words})\b", re.IGNORECASE).search for words in _WISHES.values()
)
PICTURE_NAMES: tuple[str, ...] = (
    "log pixels",
    "log aspect",
    "bytes a pixel",
    "log colours",
    "edge share",
    "median step",
    "brightness",
    "contrast",
    "saturation",
    "background",
    "object's side",
    *(
        f"grid {row}{column}{channel}"
        for row in range(4)
        for column in range(4)
        for channel in "rgb"
    ),
)
PROMPT_NAMES: tuple[str, ...] = ("log prompt length", *_WISHES)
NAMES: tuple[str, ...] = PICTURE_NAMES + PROMPT_NAMES


def of_picture(picture: bytes) -> list[float]:
    """The values of `PICTURE_NAMES`. Raises NotSeen."""
    small, (width, height) = thumbnail(picture)
    grey, (most, least) = _grey(small), _extremes(small)
    share, step = _edges(grey)
    background, side = _extent(small)
    return [
        float(np.log(width * height)),
        float(np.log(width / height)),
        len(picture) / (width * height),
        _colours(small),
        share,
        step,
        float(grey.mean()),
        float(grey.std()),
        float((most - least).mean()),
        background,
        side,
        *_grid(small),
    ]


def of_prompt(prompt: str) -> list[float]:
    """The values of `PROMPT_NAMES`."""
    return [float(np.log1p(len(prompt))), *(1.0 if search(prompt) else 0.0 for search in _PATTERNS)]


def fingerprint(picture: bytes) -> int:
    """A difference hash of 64 bits (Krawetz 2013): pictures few bits apart are near duplicates.

    Raises NotSeen.
    """
    small = _grey(thumbnail(picture)[0])
    cells = small[:, : THUMBNAIL - THUMBNAIL % 9].reshape(8, 8, 9, 7).mean(axis=(1, 3))
    bits = (np.diff(cells, axis=1) > FLAT).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)
