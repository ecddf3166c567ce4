"""The files of an edit: which of them this pipeline takes, and what becomes of them before the
worker sees them."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image

from halftime.http.errors import ApiError
from halftime.records.serve import Certificate
from halftime.verbs.serve.files import checked_picture, readable
from halftime.verbs.serve.request import StartingPictures, Uploads

_SIDEWAYS = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def check_uploads(certificate: Certificate, uploads: Uploads) -> None:
    """Raises ApiError (400) for more pictures than the pipeline takes, and for a mask that it does
    not take."""
    count, most = len(uploads.images), certificate.references
    if count > most:
        pictures = "one picture" if most == 1 else f"{most} pictures at most"
        raise ApiError(
            400,
            f"{count} pictures were sent; {certificate.pipeline} draws from {pictures}.",
            code="unsupported_value",
            param="image",
        )
    if uploads.mask is not None and not certificate.inpaint:
        raise ApiError(
            400,
            f"{certificate.pipeline} takes no mask here; leave it out.",
            code="unsupported_parameter",
            param="mask",
        )


def prepared(certificate: Certificate, uploads: Uploads, size: tuple[int, int]) -> StartingPictures:
    """The files as the worker gets them, of the drawn size. Raises ApiError (400)."""
    mask = None
    if uploads.mask is not None:
        mask = checked_mask(uploads.mask, upright_size(uploads.images[0]), size)
    pictures = tuple(checked_picture(file, size) for file in uploads.images)
    if certificate.references > 1 and mask is None:
        return StartingPictures(references=pictures)
    return StartingPictures(image=pictures[0], mask=mask)


def upright_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height as the picture is seen; only its head is read."""
    with readable(file) as picture:
        width, height = picture.size
        sideways = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    file.seek(0)
    return (height, width) if sideways else (width, height)


def checked_mask(file: BinaryIO, picture: tuple[int, int], size: tuple[int, int]) -> bytes:
    """OpenAI's mask as diffusers takes one: what is transparent in it becomes white, which is drawn
    anew, and the rest black; grey, of `size`.

    Raises ApiError (400) for one that is not of the picture's size, or has nothing transparent.
    """
    with readable(file, "mask") as mask:
        if mask.size != picture:
            raise _refused(
                f"The mask has {mask.width} x {mask.height} pixels and the picture "
                f"{picture[0]} x {picture[1]}; they must be equal."
            )
        alpha = mask.convert("RGBA").getchannel("A")
    if not alpha.histogram()[0]:
        raise _refused(
            "The mask has no fully transparent pixel, so nothing would be drawn anew: make "
            "transparent what is to change."
        )
    white = alpha.point(lambda value: 255 if value == 0 else 0)
    out = io.BytesIO()
    white.resize(size, Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def _refused(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_image", param="mask")
