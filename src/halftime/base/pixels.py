"""Pixels that cannot be a picture: black, one colour, pure noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE = "it is pure noise"
_BLACK = 4.0  # mean of 255 below which a picture counts as black
_FLAT = 1.0  # standard deviation of 255 below which it has one colour
_NOISE_CORRELATION = 0.25  # between neighbours; photographs and drawings have above 0.8
_NOISE_SPREAD = 12.0  # of 255


def fault(pixels: NDArray[np.uint8]) -> str:
    """What is wrong with a picture (height, width, channels), or an empty string."""
    values = pixels.astype(np.float32)
    if values.std() < _FLAT:
        return "it is black" if values.mean() < _BLACK else "it has one colour only"
    return NOISE if is_noise(pixels) else ""


def is_noise(pixels: NDArray[np.uint8]) -> bool:
    """Whether neighbours are unrelated in brightness, in both directions."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    if grey.std() < _NOISE_SPREAD or min(grey.shape) < 8:
        return False
    across = _correlation(grey[:, 1:], grey[:, :-1])
    down = _correlation(grey[1:], grey[:-1])
    return max(across, down) < _NOISE_CORRELATION


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 1.0
