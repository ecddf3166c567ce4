"""Pictures of an output, whatever form it has; nothing where there is none."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from halftime.verbs.profile.thumbnails import MOST, SIDE, drawing_of, thumbnails

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
        (SimpleNamespace(images=torch.zeros(1, 4, 8, 8)), 0),  # Stable Diffusion's
        (SimpleNamespace(images=torch.zeros(1, 64, 64)), 0),  # packed, as Flux has them
        (SimpleNamespace(audios=np.zeros((1, 100))), 0),
        (SimpleNamespace(images=[object()]), 0),
        (None, 0),
    ],
)
def test_what_was_drawn_is_kept_small(output: object, count: int) -> None:
    uris = thumbnails(output)
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
    greys = [opened(uri).convert("L").getpixel((3, 3)) for uri in thumbnails(([frames],))]
    assert greys == pytest.approx([0, 60, 140, 200], abs=4)


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 64, 64), (2, 16, 8, 8), (1, 16, 3, 16, 16)])
def test_latents_are_not_called_a_broken_picture(shape: tuple[int, ...]) -> None:
    """They look like noise, and output_type='latent' is asked for."""
    assert drawing_of(SimpleNamespace(images=torch.randn(*shape))) is None
    assert drawing_of(SimpleNamespace(frames=torch.randn(*shape))) is None
