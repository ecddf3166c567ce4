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
        (b"nothing of the kind", "decoded"),
        (jpeg()[:40], "decoded"),
        (b"", "decoded"),
        (b"\xff" * (features.MOST_BYTES + 1), "bytes"),
    ],
)
def test_what_cannot_be_looked_at_cheaply(picture: bytes, word: str) -> None:
    with pytest.raises(features.NotSeen, match=word):
        features.thumbnail(picture)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_formats_of_any_size_are_looked_at(form: str) -> None:
    picture = jpeg(size=1024, form=form)
    assert features.thumbnail(picture)[1] == (1024, 1024)
    assert features.effort(picture) == 16.0
    assert features.effort(jpeg(size=1024)) == features.effort(b"nothing") == 1.0
    assert features.media_type(picture) == f"image/{form.lower()}"


def test_a_picture_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_PIXELS", 100)
    with pytest.raises(features.NotSeen, match="the most is 100 pixels"):
        features.thumbnail(jpeg(size=64, form="PNG"))


@given(st.text(max_size=400))
def test_any_prompt_has_features(prompt: str) -> None:
    assert np.isfinite(features.of_prompt(prompt)).all()
