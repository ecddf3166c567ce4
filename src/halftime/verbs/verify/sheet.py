"""The contact sheet: baseline, candidate, amplified difference; worst pairs first, by class. A
number is not a look."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from halftime.records.verdict import Pair, Verdict
from halftime.verbs.verify.pictures import Array, Picture, PictureSet

_TILE = 192  # pixels, the side of one picture on the sheet
_GAP, _LINE, _HEAD = 8, 34, 30
_INK, _FAINT, _PAPER = (28, 31, 36), (110, 117, 127), (255, 255, 255)
AMPLIFICATION = 8


def contact_sheet(
    verdict: Verdict, baseline: PictureSet, candidate: PictureSet, rows: int = 12
) -> Image.Image:
    """One row a pair: its name and prompt, then three pictures."""
    ones = {p.name: p for p in baseline.pictures}
    others = {p.name: p for p in candidate.pictures}
    chosen = _by_class(verdict.worst_pairs[:rows])
    width = 3 * _TILE + 4 * _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(chosen) * (_TILE + _LINE + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("baseline", "candidate", f"difference x{AMPLIFICATION}")):
        draw.text((_GAP + column * (_TILE + _GAP), 8), title, fill=_INK, font=_font(14))
    for index, pair in enumerate(chosen):
        _row(
            sheet,
            draw,
            _HEAD + index * (_TILE + _LINE + _GAP),
            pair,
            ones[pair.name],
            others[pair.name],
        )
    return sheet


def _by_class(pairs: Sequence[Pair]) -> list[Pair]:
    """Classes in the order of their worst pair, and within each the worst first."""
    order = list(dict.fromkeys(pair.content_class for pair in pairs))
    return [pair for name in order for pair in pairs if pair.content_class == name]


def _row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    top: int,
    pair: Pair,
    one: Picture,
    other: Picture,
) -> None:
    facts = "  ".join(f"{name} {value:.3g}" for name, value in list(pair.metrics.items())[:3])
    draw.text(
        (_GAP, top), f"{pair.content_class} · {pair.name}   {facts}", fill=_INK, font=_font(12)
    )
    draw.text((_GAP, top + 16), _short(pair.prompt, 3 * _TILE), fill=_FAINT, font=_font(11))
    tiles = (one.pixels, other.pixels, difference(one.pixels, other.pixels))
    for column, pixels in enumerate(tiles):
        image = Image.fromarray(pixels)
        scale = _TILE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        sheet.paste(image.resize(size, method), (_GAP + column * (_TILE + _GAP), top + _LINE))


def difference(one: Array, other: Array) -> Array:
    """|candidate - baseline| amplified, on black."""
    if one.shape != other.shape:
        return np.full_like(one, 255)
    gap = np.abs(one.astype(np.int16) - other.astype(np.int16)) * AMPLIFICATION
    return np.asarray(np.clip(gap, 0, 255), dtype=np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _short(text: str, width: int) -> str:
    font = _font(11)
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip("…") + "…"
    return text


def png(image: Image.Image) -> bytes:
    """The sheet as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
