"""The parts of the HTTP side by themselves."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halftime.http.errors import ApiError
from halftime.verbs.serve.files import PictureStore, checked_picture, encode
from halftime.verbs.serve.request import quality_of, size_for, steps_for
from halftime.verbs.serve.service import LiveProfiler
from serve_fake import CERTIFICATE


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.data())
def test_png_keeps_every_pixel(width: int, height: int, channels: int, data: st.DataObject) -> None:
    size = width * height * channels
    pixels = data.draw(st.binary(min_size=size, max_size=size))
    picture = Image.open(io.BytesIO(encode(pixels, width, height, "png")))
    assert (picture.size, picture.tobytes()) == ((width, height), pixels)


@pytest.mark.parametrize("picture_format", ["jpeg", "webp"])
def test_compression_decides_the_size(picture_format: str) -> None:
    pixels = Image.effect_noise((64, 64), 60).convert("RGB").tobytes()
    low, high = (len(encode(pixels, 64, 64, picture_format, quality)) for quality in (10, 100))
    assert low < high


def test_a_clients_picture_loses_its_alpha_and_what_else_it_carries() -> None:
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "PNG", pnginfo=None, exif=b"Exif\0\0secret")
    assert b"secret" in file.getvalue()
    checked = checked_picture(file.getvalue())
    assert b"secret" not in checked
    assert Image.open(io.BytesIO(checked)).mode == "RGB"


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError, match="cannot be read"):
        checked_picture(data)


def test_pictures_expire_and_make_room() -> None:
    now = [0.0]
    store = PictureStore(capacity=10, lifetime=5.0, clock=lambda: now[0])
    first, second = store.put(b"12345", "image/png"), store.put(b"12345", "image/png")
    assert store.get(first).data == b"12345"
    third = store.put(b"1", "image/png")
    assert store.get(first) is None
    now[0] = 5.0
    assert [store.get(name) for name in (second, third)] == [None, None]
    assert (store.held, len(store)) == (0, 0)
    assert store.get(store.put(b"x" * 11, "image/png")) is None


@given(st.lists(st.integers(0, 12), max_size=30))
def test_the_store_never_holds_more_than_it_may(sizes: list[int]) -> None:
    store = PictureStore(capacity=20, lifetime=1e9)
    for size in sizes:
        name = store.put(bytes(size), "image/png")
        assert store.held <= 20
        assert store.get(name) is not None  # the newest is the last to go
        assert len(name) >= 43


def test_quality_and_size_come_from_the_certificate() -> None:
    assert [steps_for((30, 4, 10), quality) for quality in ("low", "medium", "high")] == [4, 10, 30]
    assert [steps_for((7,), quality) for quality in ("low", "medium", "high")] == [7, 7, 7]
    assert [quality_of((30, 4, 10), steps) for steps in (1, 4, 11, 25, 99)] == [
        "low",
        "low",
        "medium",
        "high",
        "high",
    ]
    assert quality_of((7,), 7) == "medium"
    assert [size_for(CERTIFICATE, size) for size in (None, "auto", "8x9")] == [
        (64, 64),
        (64, 64),
        (8, 9),
    ]


def test_profiling_takes_as_many_as_asked_for_and_keeps_the_newest() -> None:
    profiler = LiveProfiler()
    assert not profiler.take()
    profiler.start(2)
    assert [profiler.take() for _ in range(3)] == [True, True, False]
    for number in range(20):
        profiler.sessions.append(b"%d" % number)
    assert profiler.stop() == [b"%d" % number for number in range(4, 20)]
