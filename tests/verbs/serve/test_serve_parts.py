"""The parts of the HTTP side by themselves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps

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


def prepared(picture: Image.Image, file_format: str = "PNG", **options: object) -> Image.Image:
    """A client's picture as the worker gets it, of its own size."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    file.seek(0)
    return Image.open(io.BytesIO(checked_picture(file, picture.size)))


def test_a_clients_picture_loses_what_else_it_carries() -> None:
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "PNG", pnginfo=None, exif=b"Exif\0\0secret")
    assert b"secret" in file.getvalue()
    file.seek(0)
    checked = checked_picture(file, (4, 4))
    assert b"secret" not in checked
    assert Image.open(io.BytesIO(checked)).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    picture = Image.new("RGBA", (4, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    picture = picture.convert(mode) if mode != "PA" else picture.quantize(8)
    pixels = [prepared(picture).getpixel((x, 0)) for x in range(3)]
    assert pixels[0] == (255, 255, 255)
    assert pixels[1] == (0, 0, 0)
    assert pixels[2] == pytest.approx((127, 127, 127), abs=1)


def test_a_transparent_colour_is_transparent() -> None:
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255))
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=(255, 0, 0))
    file.seek(0)
    drawn_from = Image.open(io.BytesIO(checked_picture(file, (2, 1))))
    assert [drawn_from.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    drawn_from = prepared(Image.fromarray(values))
    assert [drawn_from.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_a_photo_is_obeyed(orientation: int) -> None:
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("red", (0, 0, 16, 8))  # the upper left quarter
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    file.seek(0)
    drawn_from = Image.open(io.BytesIO(checked_picture(file, upright.size)))
    assert drawn_from.size == ((32, 16) if orientation < 5 else (16, 32))
    difference = ImageChops.difference(drawn_from, upright.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 8


@pytest.mark.parametrize("mode", ["CMYK", "L", "1"])
def test_other_modes_are_the_colours_they_mean(mode: str) -> None:
    picture = Image.new("RGB", (8, 8), "white").convert(mode)
    drawn_from = prepared(picture, "JPEG" if mode == "CMYK" else "PNG")
    assert drawn_from.getpixel((4, 4)) == pytest.approx((255, 255, 255), abs=2)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_photo_is_shrunk_before_it_goes_to_the_worker(file_format: str) -> None:
    photo = Image.linear_gradient("L").resize((1600, 1200)).convert("RGB")
    file = io.BytesIO()
    photo.save(file, file_format, quality=95)
    file.seek(0)
    checked = checked_picture(file, (64, 48))
    drawn_from = Image.open(io.BytesIO(checked))
    assert drawn_from.size == (64, 48)
    assert len(checked) < 64 * 48 * 3 + 200
    expected = photo.resize((64, 48), Image.Resampling.LANCZOS)
    difference = ImageChops.difference(drawn_from, expected)
    assert max(high for _, high in difference.getextrema()) <= 4


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError, match="cannot be read"):
        checked_picture(io.BytesIO(data), (8, 8))


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
