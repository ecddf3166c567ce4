"""Pairs of pictures for the report: worst first, small enough that the page stays one file."""

from __future__ import annotations

import base64
import io

from PIL import Image

from halftime.records.tune import Slide
from halftime.records.verdict import Verdict
from halftime.verbs.verify.pictures import Array, PictureSet

_MOST = 12
_SIDE = 512  # pixels; larger pictures are scaled down
_LOSSLESS = 256  # up to this side as PNG, so that the slider shows the very pixels


def slides(verdict: Verdict, baseline: PictureSet, candidate: PictureSet) -> tuple[Slide, ...]:
    """The pairs that are farthest apart, baseline and candidate, as data URIs."""
    before = {picture.name: picture for picture in baseline.pictures}
    after = {picture.name: picture for picture in candidate.pictures}
    return tuple(
        Slide(
            content_class=pair.content_class,
            prompt=pair.prompt,
            baseline=_uri(before[pair.name].pixels),
            candidate=_uri(after[pair.name].pixels),
        )
        for pair in verdict.worst_pairs[:_MOST]
    )


def _uri(pixels: Array) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    form = "PNG" if max(image.size) <= _LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, format=form, **({"optimize": True} if form == "PNG" else {"quality": 88}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
