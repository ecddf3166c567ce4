"""Picture files: pixels to PNG, JPEG or WebP, a client's picture to a safe one, and where
`response_format=url` answers live for a while."""

from __future__ import annotations

import io
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from halftime.http.errors import ApiError

PictureFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: dict[PictureFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
ACCEPTED = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 4096 * 4096  # of a client's picture: a small file may unpack to gigabytes
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# 1024x1024 with sensor noise: 84 ms at level 1, 282 ms at zlib's usual 6, for a file that is 15 %
# larger.
_PNG_LEVEL = 1


def encode(
    pixels: bytes, width: int, height: int, picture_format: PictureFormat, quality: int = 100
) -> bytes:
    """A picture file of `pixels`, uint8 height x width x channels. `quality` 0 to 100 is for JPEG
    and WebP."""
    mode = _MODES[len(pixels) // (width * height)]
    picture = Image.frombytes(mode, (width, height), pixels)
    file = io.BytesIO()
    if picture_format == "png":
        picture.save(file, "PNG", compress_level=_PNG_LEVEL)
    elif picture_format == "jpeg":
        picture.convert("RGB").save(file, "JPEG", quality=quality)
    else:
        picture.save(file, "WEBP", quality=quality, method=2)
    return file.getvalue()


def checked_picture(file: BinaryIO, size: tuple[int, int]) -> bytes:
    """The client's picture as it will be drawn from: decoded once, upright, opaque, brought to
    `size`, and written anew as an RGB PNG, so that the worker never sees foreign bytes.

    Raises ApiError (400) for what is not a PNG, JPEG or WebP file, is broken, or unpacks to more
    than MOST_PIXELS.
    """
    with readable(file) as picture:
        # A JPEG is decoded at an eighth, a quarter or a half, where that is still twice too large:
        # the memory and time of the rest would be for nothing.
        picture.draft(None, (2 * max(size), 2 * max(size)))
        picture.load()
        return _png(opaque(upright(picture)), size)


@contextmanager
def readable(file: BinaryIO, param: str = "image") -> Iterator[Image.Image]:
    """A client's picture, not decoded yet. Raises ApiError (400), also for what goes wrong inside
    the block."""
    try:
        with Image.open(file, formats=ACCEPTED) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise _refused(
                    f"it has {picture.width} x {picture.height} pixels; allowed are "
                    f"{MOST_PIXELS} in all",
                    param,
                )
            yield picture
    except UnidentifiedImageError as error:
        raise _refused("it is not a PNG, JPEG or WebP file", param) from error
    except ApiError:
        raise
    # Pillow's readers raise what their code ran into: struct.error, IndexError, SyntaxError, ...
    except Exception as error:
        raise _refused("it is broken", param) from error


def upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where its EXIF cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # again whatever the reader ran into
        return picture


def _png(picture: Image.Image, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    drawn_size = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    drawn_size.save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def opaque(picture: Image.Image) -> Image.Image:
    """As RGB: what is transparent lies on white, and 16 bits become 8."""
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's convert would clip
        wide = picture.convert("I")
        return wide.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return picture.convert("RGB")


def _refused(why: str, param: str) -> ApiError:
    name = "picture" if param == "image" else param
    return ApiError(400, f"The {name} cannot be read: {why}.", code="invalid_image", param=param)


class StoredPicture(NamedTuple):
    """A picture file, and when it ends (seconds on the store's clock)."""

    data: bytes
    media_type: str
    expires: float


class PictureStore:
    """At most `capacity` bytes of pictures, in memory, under names that cannot be guessed, each for
    `lifetime` seconds; the oldest go first."""

    def __init__(
        self, capacity: int, lifetime: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.lifetime, self._clock = capacity, lifetime, clock
        self._pictures: OrderedDict[str, StoredPicture] = OrderedDict()
        self.held = 0

    def put(self, data: bytes, media_type: str) -> str:
        """Keep a picture; its name has 256 bits of chance."""
        name = secrets.token_urlsafe(32)
        self._pictures[name] = StoredPicture(data, media_type, self._clock() + self.lifetime)
        self.held += len(data)
        self._drop_old()
        return name

    def get(self, name: str) -> StoredPicture | None:
        """The picture, or None where it never was, has expired, or had to make room."""
        self._drop_old()
        return self._pictures.get(name)

    def __len__(self) -> int:
        return len(self._pictures)

    def _drop_old(self) -> None:
        now = self._clock()
        # All live equally long, so the first is both the oldest and the next to expire.
        while self._pictures and (
            self.held > self.capacity or next(iter(self._pictures.values())).expires <= now
        ):
            _, oldest = self._pictures.popitem(last=False)
            self.held -= len(oldest.data)
