"""What the router looks at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captions_synthetic import jpeg
from halftime.verbs.captions import features


def value(picture: bytes, name: str) -> float:
    return features.of_picture(picture)[features.PICTURE_NAMES.index(name)]


def test_as_many_values_as_names() -> None:
    assert len(features.of_picture(jpeg())) == len(features.PICTURE_NAMES)
    assert len(features.of_prompt("what?")) == len(features.PROMPT_NAMES)
    assert len(set(features.NAMES)) == len(features.NAMES)


def test_noise_shows_in_the_median_step_and_in_the_bytes() -> None:
    assert value(jpeg(noise=60), "median step") > value(jpeg(), "median step") + 0.005
    assert value(jpeg(noise=60), "bytes a pixel") > 2 * value(jpeg(), "bytes a pixel")


def test_a_jpeg_is_never_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    convert = Image.Image.convert

    def recorded(image: Image.Image, *args: object, **kwargs: object) -> Image.Image:
        sizes.append(image.size)
        return convert(image, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "convert", recorded)
    features.of_picture(jpeg(size=1024))
    assert sizes == [(128, 128)]


@pytest.mark.parametrize(
    ("picture", "word"),
    [
        (jpeg(size=512, form="PNG"), "in part"),
        (b"nothing of the kind", "decoded"),
        (jpeg()[:40], "decoded"),
        (b"", "decoded"),
        (b"\xff" * (features.MOST_BYTES + 1), "bytes"),
    ],
)
def test_what_cannot_be_looked_at_cheaply(picture: bytes, word: str) -> None:
    with pytest.raises(features.NotSeen, match=word):
        features.thumbnail(picture)


def test_a_small_png_is_looked_at() -> None:
    assert features.thumbnail(jpeg(size=128, form="PNG"))[1] == (128, 128)


def test_near_duplicates_are_few_bits_apart() -> None:
    first, second = features.fingerprint(jpeg(1)), features.fingerprint(jpeg(5))
    for again in (jpeg(1, noise=4), jpeg(1, size=256)):
        assert (first ^ features.fingerprint(again)).bit_count() <= 3
    assert (first ^ second).bit_count() > 3


@given(st.text(max_size=400))
def test_any_prompt_has_features(prompt: str) -> None:
    assert np.isfinite(features.of_prompt(prompt)).all()
