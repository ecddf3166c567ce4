"""The parts of the HTTP side by themselves."""

from __future__ import annotations

import asyncio
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halftime.verbs.serve.auth import matches
from halftime.verbs.serve.disconnect import ClientLeft, unless_disconnected
from halftime.verbs.serve.encode import checked_picture, encode
from halftime.verbs.serve.errors_http import ApiError, ErrorBody
from halftime.verbs.serve.observe import _pieces
from halftime.verbs.serve.offer import quality_of, size_for, steps_for
from halftime.verbs.serve.pictures import PictureStore
from halftime.verbs.serve.profiled import Profiled
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
def test_what_is_no_picture_is_refused(data: bytes) -> None:
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


@pytest.mark.parametrize(
    ("given_key", "keys", "fits"),
    [
        ("a", ("a",), True),
        ("b", ("a", "b"), True),
        ("", ("a",), False),
        ("A", ("a",), False),
        ("aa", ("a",), False),
        ("\udcff", ("a",), False),
        ("ü", ("ü",), True),
        ("a", (), False),
    ],
)
def test_keys(given_key: str, keys: tuple[str, ...], fits: bool) -> None:
    assert matches(given_key, keys) is fits


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_errors_in_openais_words(status: int, kind: str) -> None:
    error = ApiError(status, "Said.", code="c", param="p", retry_after=0.2)
    body = msgspec.json.decode(error.body(), type=ErrorBody).error
    assert (body.message, body.type, body.code, body.param) == ("Said.", kind, "c", "p")
    assert error.headers() == {"retry-after": "1"}


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
    profiled = Profiled()
    assert not profiled.take()
    profiled.start(2)
    assert [profiled.take() for _ in range(3)] == [True, True, False]
    for number in range(20):
        profiled.keep(b"%d" % number)
    assert profiled.stop() == [b"%d" % number for number in range(4, 20)]


@given(st.integers(0, 3 * 256 * 1024 + 1), st.booleans())
def test_pieces_are_the_body(size: int, more: bool) -> None:
    message = {"type": "http.response.body", "body": bytes(size), "more_body": more}
    pieces = list(_pieces(message))
    assert b"".join(piece["body"] for piece in pieces) == message["body"]
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [more]
    assert max(len(piece["body"]) for piece in pieces) <= 256 * 1024


def test_work_is_cancelled_and_waited_for_when_the_client_leaves() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        asyncio.run(unless_disconnected(receive, work()))
    assert ended == [True]
