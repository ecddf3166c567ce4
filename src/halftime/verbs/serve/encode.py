"""Pixels to PNG, JPEG or WebP, and the client's picture to pixels' bytes that are safe to hand
on."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, UnidentifiedImageError

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


def checked_picture(data: bytes) -> bytes:
    """The client's picture, decoded once and written anew as an RGB PNG, so that the worker never
    sees foreign bytes.

    Raises ApiError (400) for what is no PNG, JPEG or WebP, is broken, or unpacks to more than
    MOST_PIXELS.
    """
    try:
        with Image.open(io.BytesIO(data), formats=ACCEPTED) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise _refused(
                    f"it has {picture.width} x {picture.height} pixels; allowed are "
                    f"{MOST_PIXELS} in all"
                )
            file = io.BytesIO()
            picture.convert("RGB").save(file, "PNG", compress_level=_PNG_LEVEL)
            return file.getvalue()
    except UnidentifiedImageError as error:
        raise _refused("it is no PNG, JPEG or WebP") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused("it is broken") from error


def _refused(why: str) -> ApiError:
    return ApiError(400, f"The picture cannot be read: {why}.", code="invalid_image", param="image")
