"""What a call drew, small enough for a report: data URIs of a few pictures or frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from halftime.base.pixels import fault

SIDE = 160  # pixels of the longer side
MOST = 4
_QUALITY = 80


def thumbnails(output: object) -> tuple[str, ...]:
    """The pictures in a pipeline's output, or first, middle and last frames of its films.

    Nothing where it drew none that can be shown: latents, sound, meshes.
    """
    try:
        return tuple(map(_uri, _few(list(_pictures(_first(output))))))
    except Exception:  # a picture that cannot be drawn costs no measurement
        return ()


@dataclass(frozen=True)
class PictureFacts:
    """What a call drew, as far as rules ask."""

    count: int  # pictures or frames
    pixels: int  # of one of them
    faults: tuple[str, ...]  # 'it is black', …; each once
    films: int = 0  # that these are frames of


def drawing_of(output: object) -> PictureFacts | None:
    """Looked at in full size; None where nothing was drawn that can be shown."""
    try:
        films = _films(output)
        output = _first(output)
        pictures = [np.asarray(picture.convert("RGB")) for picture in _pictures(output)]
        not_finite = "it holds NaN or infinity" if not _is_finite(output) else ""
    except Exception:  # a picture that cannot be drawn costs no measurement
        return None
    if not pictures:
        return None
    faults = [not_finite] if not_finite else map(fault, pictures)
    height, width = pictures[0].shape[:2]
    distinct = tuple(dict.fromkeys(filter(None, faults)))
    return PictureFacts(len(pictures), height * width, distinct, films)


def _films(output: object) -> int:
    """How many films are in an output of diffusers; 0 where these are pictures."""
    films = getattr(output, "frames", None)
    return len(films) if films is not None else 0


def _is_finite(drawing: object) -> bool:
    if isinstance(drawing, torch.Tensor):
        return bool(torch.isfinite(drawing).all())
    if isinstance(drawing, np.ndarray):
        return bool(np.isfinite(drawing).all())
    return all(map(_is_finite, drawing)) if isinstance(drawing, list | tuple) else True


def _first(output: object) -> object:
    """What was drawn, in an output of diffusers or in a tuple that starts with it."""
    for name in ("images", "frames", "image", "frame"):
        drawing = getattr(output, name, None)
        if drawing is not None:
            return drawing
    return output[0] if isinstance(output, tuple) and output else None


def _pictures(drawing: object) -> Iterator[Image.Image]:
    if isinstance(drawing, Image.Image):
        yield drawing
    elif isinstance(drawing, torch.Tensor):
        if _holds_pictures(drawing):
            yield from _arrays(drawing.detach().float().cpu().numpy(), channels=-3)
    elif isinstance(drawing, np.ndarray):
        yield from _arrays(drawing, channels=-1)
    elif isinstance(drawing, list | tuple):
        for part in drawing:
            yield from _pictures(part)


def _holds_pictures(tensor: torch.Tensor) -> bool:
    """diffusers gives pictures as 0 to 1, with 1 or 3 channels; what else it gives are latents,
    which look like noise."""
    if tensor.ndim < 4 or tensor.shape[-3] not in (1, 3):
        return False
    values = tensor[torch.isfinite(tensor)]
    return not values.numel() or bool(values.min() >= 0 and values.max() <= 1)


def _arrays(values: np.ndarray, channels: int) -> Iterator[Image.Image]:
    """Pictures in an array of any number of dimensions before height, width and channels."""
    if values.ndim < 3 or values.shape[channels] not in (1, 3, 4):
        return
    last = np.moveaxis(values, channels, -1)
    for picture in last.reshape(-1, *last.shape[-3:]):
        pixels = picture if picture.dtype == np.uint8 else np.clip(picture, 0, 1) * 255
        yield Image.fromarray(np.nan_to_num(pixels).round().astype(np.uint8).squeeze())


def _few(pictures: Sequence[Image.Image]) -> Sequence[Image.Image]:
    """All of few; of many the first, the last, and what lies evenly between."""
    if len(pictures) <= MOST:
        return pictures
    return [pictures[round(part * (len(pictures) - 1) / (MOST - 1))] for part in range(MOST)]


def _uri(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
