"""What a call drew: its pictures or frames, as a report shows them and as the rules judge them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from halftime.pipeline.broken import why_broken

SIDE = 160  # pixels of a thumbnail's longer side
MOST = 4
_QUALITY = 80


@dataclass(frozen=True)
class CallPictures:
    """The pictures of a call, or the frames of its films."""

    count: int = 0
    longer_side: int = 0  # pixels of the first
    faults: tuple[str, ...] = ()  # of those that are broken, why
    thumbnails: tuple[str, ...] = ()  # data URIs: all of few, else first, last and some between


NOTHING_DRAWN = CallPictures()


def drawn(output: object, *, small: bool = True) -> CallPictures:
    """What is in a pipeline's output; nothing where it drew none that can be shown: latents, sound,
    meshes. With `small`, thumbnails too."""
    try:
        arrays = list(_arrays(_first(output)))
        pictures = [_picture(array) for array in _few(arrays)]
        return CallPictures(
            count=len(arrays),
            longer_side=max(arrays[0].shape[:2]) if arrays else 0,
            faults=tuple(filter(None, map(_fault, arrays))),
            thumbnails=tuple(map(_uri, pictures)) if small else (),
        )
    except Exception:  # a picture that cannot be drawn costs no measurement
        return NOTHING_DRAWN


def _first(output: object) -> object:
    """What was drawn, in an output of diffusers or in a tuple that starts with it."""
    for name in ("images", "frames", "image", "frame"):
        drawing = getattr(output, name, None)
        if drawing is not None:
            return drawing
    return output[0] if isinstance(output, tuple) and output else None


def _arrays(drawing: object) -> Iterator[np.ndarray]:
    """Each picture as height x width x channels, of bytes or of 0 to 1."""
    if isinstance(drawing, Image.Image):
        plain = drawing if drawing.mode in ("RGB", "RGBA") else drawing.convert("RGB")
        yield np.asarray(plain)
    elif isinstance(drawing, torch.Tensor):
        # A tensor of four channels, or of none, holds latents.
        if drawing.ndim >= 4 and drawing.shape[-3] in (1, 3):
            yield from _split(drawing.detach().float().cpu().numpy(), channels=-3)
    elif isinstance(drawing, np.ndarray):
        yield from _split(drawing, channels=-1)
    elif isinstance(drawing, list | tuple):
        for part in drawing:
            yield from _arrays(part)


def _split(values: np.ndarray, channels: int) -> Iterator[np.ndarray]:
    """Pictures in an array of any number of dimensions before height, width and channels."""
    if values.ndim < 3 or values.shape[channels] not in (1, 3, 4):
        return
    last = np.moveaxis(values, channels, -1)
    yield from last.reshape(-1, *last.shape[-3:])


def _bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    scaled: np.ndarray = np.nan_to_num(np.clip(array, 0, 1)) * 255
    return scaled.round().astype(np.uint8)


def _fault(array: np.ndarray) -> str:
    if array.dtype != np.uint8 and not np.isfinite(array).all():
        return "it holds values that are not numbers (NaN)"
    return why_broken(_bytes(array)[..., :3])


def _picture(array: np.ndarray) -> Image.Image:
    return Image.fromarray(_bytes(array).squeeze())


def _few(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """All of few; of many the first, the last, and what lies evenly between."""
    if len(arrays) <= MOST:
        return arrays
    return [arrays[round(part * (len(arrays) - 1) / (MOST - 1))] for part in range(MOST)]


def _uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
