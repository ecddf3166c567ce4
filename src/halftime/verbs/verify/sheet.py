"""The contact sheet: baseline, candidate, amplified difference; worst pairs first, by class."""

from __future__ import annotations

import io

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
    before = {picture.name: picture for picture in baseline.pictures}
    after = {picture.name: picture for picture in candidate.pictures}
    # Classes in the order of their worst pair, and within each the worst first.
    worst = verdict.worst_pairs[:rows]
    classes = dict.fromkeys(pair.content_class for pair in worst)
    pairs = [pair for name in classes for pair in worst if pair.content_class == name]
    width = 3 * _TILE + 4 * _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(pairs) * (_TILE + _LINE + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("baseline", "candidate", f"difference x{AMPLIFICATION}")):
        draw.text((_GAP + column * (_TILE + _GAP), 8), title, fill=_INK, font=_font(14))
    for index, pair in enumerate(pairs):
        top = _HEAD + index * (_TILE + _LINE + _GAP)
        _row(sheet, draw, top, pair, before[pair.name], after[pair.name])
    return sheet


def _row(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    top: int,
    pair: Pair,
    baseline: Picture,
    candidate: Picture,
) -> None:
    facts = "  ".join(f"{name} {value:.3g}" for name, value in list(pair.metrics.items())[:3])
    draw.text(
        (_GAP, top), f"{pair.content_class} · {pair.name}   {facts}", fill=_INK, font=_font(12)
    )
    draw.text((_GAP, top + 16), _short(pair.prompt, 3 * _TILE), fill=_FAINT, font=_font(11))
    tiles = (
        baseline.pixels,
        candidate.pixels,
        difference(baseline.pixels, candidate.pixels),
    )
    for column, pixels in enumerate(tiles):
        image = Image.fromarray(pixels)
        scale = _TILE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        sheet.paste(image.resize(size, method), (_GAP + column * (_TILE + _GAP), top + _LINE))


def difference(baseline: Array, candidate: Array) -> Array:
    """|candidate - baseline| amplified, on black."""
    if baseline.shape != candidate.shape:
        return np.full_like(baseline, 255)
    gap = np.abs(candidate.astype(np.int16) - baseline.astype(np.int16)) * AMPLIFICATION
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
