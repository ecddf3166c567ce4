"""Pictures of an output, whatever form it has; nothing where there is none."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from halftime.verbs.profile.drawn import MOST, NOTHING_DRAWN, SIDE, drawn

RED = Image.new("RGB", (400, 200), (250, 5, 5))
FLOATS = np.zeros((20, 40, 3), np.float32)
FLOATS[..., 0] = 1.0


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(
    ("output", "count"),
    [
        (SimpleNamespace(images=[RED, RED]), 2),
        (SimpleNamespace(images=FLOATS[None]), 1),
        (SimpleNamespace(images=torch.from_numpy(FLOATS).permute(2, 0, 1)[None]), 1),
        (SimpleNamespace(images=[FLOATS, FLOATS]), 2),
        (SimpleNamespace(frames=[[RED] * 9]), MOST),  # a film
        (SimpleNamespace(frames=np.repeat(FLOATS[None, None], 9, 1)), MOST),
        (([RED],), 1),  # return_dict=False
        (SimpleNamespace(images=torch.zeros(1, 16, 8, 8)), 0),  # latents
        (SimpleNamespace(images=torch.zeros(1, 4, 8, 8)), 0),
        (SimpleNamespace(images=torch.zeros(1, 64, 64)), 0),  # packed, as Flux has them
        (SimpleNamespace(audios=np.zeros((1, 100))), 0),
        (SimpleNamespace(images=[object()]), 0),
        (None, 0),
    ],
)
def test_what_was_drawn_is_kept_small(output: object, count: int) -> None:
    uris = drawn(output).thumbnails
    assert len(uris) == count
    for uri in uris:
        picture = opened(uri)
        assert max(picture.size) <= SIDE
        red, green, blue = picture.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert red > 200
        assert green < 60
        assert blue < 60


def test_of_a_film_first_and_last_frame_are_among_them() -> None:
    frames = [Image.new("L", (8, 8), 20 * index) for index in range(11)]
    greys = [opened(uri).convert("L").getpixel((3, 3)) for uri in drawn(([frames],)).thumbnails]
    assert greys == pytest.approx([0, 60, 140, 200], abs=4)


def with_nan() -> np.ndarray:
    values = np.linspace(0, 1, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
    values[0, 3, 4, 1] = np.nan
    return values


NOISE = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
SMOOTH = np.linspace(0, 1, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (with_nan(), "NaN"),
        (np.zeros((1, 32, 32, 3), np.float32), "black"),
        (np.full((1, 32, 32, 3), 0.4, np.float32), "one colour"),
        (NOISE, "noise"),
        (torch.from_numpy(NOISE).permute(0, 3, 1, 2), "noise"),
        ([Image.new("RGB", (32, 32))], "black"),
        (SMOOTH, ""),
    ],
)
def test_a_broken_picture_is_named(images: object, word: str) -> None:
    faults = drawn(SimpleNamespace(images=images), small=False).faults
    assert len(faults) == bool(word)
    assert all(word in fault for fault in faults)


def test_what_cannot_be_shown_is_not_called_broken() -> None:
    assert drawn(SimpleNamespace(images=torch.randn(1, 4, 16, 16))) == NOTHING_DRAWN
