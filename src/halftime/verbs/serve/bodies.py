"""Request bodies, read as JSON or multipart, with refusals that name the parameter."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from halftime.http.errors import ApiError

Body = TypeVar("Body", bound=msgspec.Struct)

_MOST_FIELDS = 40
_PICTURE_FIELDS = ("image", "image[]")


async def json_body(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises ApiError: 415 for another media type, 400 for anything that does
    not fit."""
    # Asking for application/json also makes browsers ask first before another site's page may post
    # here.
    if _media_type(request) != "application/json":
        raise ApiError(415, "Send the body as application/json.", code="unsupported_media_type")
    data = await request.body()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The body is no valid JSON: {error}.", code="invalid_json") from error


async def multipart_body(request: Request, kind: type[Body]) -> tuple[Body, bytes]:
    """The fields as `kind`, and the file that came as `image`. Raises ApiError, as `json_body`."""
    if _media_type(request) != "multipart/form-data":
        raise ApiError(415, "Send the body as multipart/form-data.", code="unsupported_media_type")
    fields, files = await _form(request)
    refused = sorted(set(files) - {"image"})
    if refused:
        raise ApiError(
            400,
            (
                f"{refused[0]!r} is not supported: this server takes one picture as 'image' and no "
                "mask."
            ),
            code="unsupported_parameter",
            param=refused[0],
        )
    if "image" not in files:
        raise ApiError(
            400,
            "Missing required parameter: 'image', a file.",
            code="missing_parameter",
            param="image",
        )
    try:
        return msgspec.convert(fields, kind, strict=False), files["image"]
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


async def _form(request: Request) -> tuple[dict[str, str], dict[str, bytes]]:
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    try:
        async with request.form(max_files=4, max_fields=_MOST_FIELDS) as form:
            for name, value in form.multi_items():
                is_file = isinstance(value, UploadFile)
                key = "image" if is_file and name in _PICTURE_FIELDS else name
                if key in fields or key in files:
                    raise ApiError(
                        400,
                        f"{key!r} was sent twice; one is taken.",
                        code="duplicate_field",
                        param=key,
                    )
                if isinstance(value, UploadFile):
                    files[key] = await value.read()
                else:
                    fields[key] = value
    except (UnicodeDecodeError, LookupError, ValueError) as error:
        # python-multipart lets some of what it cannot read through as it comes: a charset nobody
        # knows, a broken name.
        raise ApiError(400, "The multipart body cannot be read.", code="invalid_body") from error
    except HTTPException as error:
        raise ApiError(
            400, f"The multipart body cannot be read: {error.detail}", code="invalid_body"
        ) from error
    return fields, files


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_PLACE = re.compile(r" - at `\$\.?(?P<name>[^`]*)`$")


def _invalid(error: msgspec.ValidationError) -> ApiError:
    """msgspec's words, in OpenAI's."""
    text = str(error)
    if found := _UNKNOWN.search(text):
        return ApiError(
            400,
            f"Unknown parameter: {found['name']!r}.",
            code="unknown_parameter",
            param=found["name"],
        )
    if found := _MISSING.search(text):
        message = f"Missing required parameter: {found['name']!r}."
        return ApiError(400, message, code="missing_parameter", param=found["name"])
    found = _PLACE.search(text)
    name = found["name"] if found else None
    said = _PLACE.sub("", text)
    return ApiError(
        400, f"Invalid {name!r}: {said}." if name else f"{said}.", code="invalid_value", param=name
    )
