"""/openapi.json: built from the classes that check requests and write answers: it cannot drift."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from halftime import __version__
from halftime.http.endpoints import ModelObject, ModelObjects
from halftime.http.errors import JSON, ErrorBody
from halftime.verbs.serve.health import Readiness
from halftime.verbs.serve.profiling import ProfileStart, ProfileState
from halftime.verbs.serve.schema import (
    CompletedEvent,
    EditRequest,
    GenerateRequest,
    ImagesResponse,
    PartialEvent,
    VariationRequest,
    VideoDeleted,
    VideoObject,
    VideoObjects,
    VideoRequest,
)

Schema = dict[str, object]
MULTIPART = "multipart/form-data"
EVENTS = "text/event-stream"
_STRUCTS = (
    GenerateRequest,
    EditRequest,
    VariationRequest,
    ImagesResponse,
    PartialEvent,
    CompletedEvent,
    VideoRequest,
    VideoObject,
    VideoObjects,
    VideoDeleted,
    ModelObject,
    ModelObjects,
    Readiness,
    ErrorBody,
    ProfileStart,
    ProfileState,
)


@dataclass(frozen=True)
class Operation:
    """One path and method: its body, its answers, and with which statuses it refuses."""

    method: str
    path: str
    summary: str
    answers: dict[str, type | None]  # media type -> its class, None where it is not JSON
    refuses: tuple[int, ...] = ()
    body: tuple[str, type] | None = None
    secret: str = ""
    also: tuple[int, ...] = ()  # further statuses with the first answer's body


_DRAWS = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)
# In the order in which a reader wants them. A test holds this table against the routes.
OPERATIONS = (
    Operation(
        "post",
        "/v1/images/generations",
        "Draw pictures from a prompt.",
        {JSON: ImagesResponse, EVENTS: None},
        _DRAWS,
        (JSON, GenerateRequest),
        "key",
    ),
    Operation(
        "post",
        "/v1/images/edits",
        "Draw a picture anew from a picture and a prompt.",
        {JSON: ImagesResponse, EVENTS: None},
        _DRAWS,
        (MULTIPART, EditRequest),
        "key",
    ),
    Operation(
        "post",
        "/v1/images/variations",
        "Draw pictures like a picture.",
        {JSON: ImagesResponse},
        _DRAWS,
        (MULTIPART, VariationRequest),
        "key",
    ),
    Operation(
        "post",
        "/v1/videos",
        "Ask for a video.",
        {JSON: VideoObject},
        (400, 401, 403, 404, 408, 413, 415, 429, 503),
        (MULTIPART, VideoRequest),
        "key",
    ),
    Operation(
        "get", "/v1/videos", "Your videos.", {JSON: VideoObjects}, (400, 401, 503), secret="key"
    ),
    Operation(
        "get",
        "/v1/videos/{name}",
        "What has become of a video.",
        {JSON: VideoObject},
        (401, 404, 503),
        secret="key",
    ),
    Operation(
        "delete",
        "/v1/videos/{name}",
        "Forget a video, or stop making it.",
        {JSON: VideoDeleted},
        (401, 403, 404, 503),
        secret="key",
    ),
    Operation(
        "get",
        "/v1/videos/{name}/content",
        "A video's file, or a picture of it.",
        {"video/mp4": None, "image/webp": None},
        (400, 401, 404, 409, 503),
        secret="key",
    ),
    Operation("get", "/v1/models", "The model.", {JSON: ModelObjects}, (401, 503), secret="key"),
    Operation(
        "get",
        "/v1/models/{name}",
        "The model by name.",
        {JSON: ModelObject},
        (401, 404, 503),
        secret="key",
    ),
    Operation(
        "get",
        "/pictures/{name}",
        "A picture that an answer with response_format=url named.",
        {"image/png": None, "image/jpeg": None, "image/webp": None},
        (404,),
    ),
    Operation("get", "/healthz", "The process answers.", {"text/plain": None}),
    Operation(
        "get",
        "/readyz",
        "The warm-up certificate; 503 until it stands.",
        {JSON: Readiness},
        also=(503,),
    ),
    Operation("get", "/metrics", "Prometheus metrics.", {"text/plain": None}),
    Operation(
        "get",
        "/profile",
        "Sessions of profiled pictures.",
        {JSON: ProfileState},
        (401, 404),
        secret="profile",
    ),
    Operation(
        "post",
        "/profile/start",
        "Profile the next pictures.",
        {JSON: ProfileState},
        (400, 401, 403, 404, 408, 413, 415),
        (JSON, ProfileStart),
        "profile",
    ),
    Operation(
        "post",
        "/profile/stop",
        "Stop profiling and take the sessions.",
        {JSON: ProfileState},
        (401, 403, 404),
        secret="profile",
    ),
    Operation("get", "/openapi.json", "This document.", {JSON: None}),
)


async def openapi(_: Request) -> Response:
    """The document."""
    return Response(document(), media_type=JSON)


@cache
def document() -> bytes:
    """The OpenAPI 3.1 document as JSON."""
    _, components = msgspec.json.schema_components(
        _STRUCTS, ref_template="#/components/schemas/{name}"
    )
    components["EditRequest"] = _with_files(components["EditRequest"], {"image": _PICTURE, **_MASK})
    components["VariationRequest"] = _with_files(
        components["VariationRequest"], {"image": _PICTURE}
    )
    components["VideoRequest"] = _with_files(
        components["VideoRequest"], {"input_reference": _PICTURE}, needs=False
    )
    secrets: Schema = {
        "key": {"type": "http", "scheme": "bearer"},
        "profile": {"type": "http", "scheme": "bearer"},
    }
    paths: dict[str, dict[str, object]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "halftime serve",
                "version": __version__,
                "license": {"name": "Apache-2.0"},
            },
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": secrets},
        }
    )


_PICTURE: Schema = {
    "type": "string",
    "format": "binary",
    "description": "A PNG, JPEG or WebP file; several, as image[], where /readyz says so.",
}
_MASK: Schema = {
    "mask": {
        "type": "string",
        "format": "binary",
        "description": "A picture of the same size, transparent where it is to be drawn anew.",
    }
}


def _with_files(schema: Schema, files: Schema, needs: bool = True) -> Schema:
    properties, required = schema["properties"], schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    needed = ["image", *required] if needs else required
    return {**schema, "properties": {**files, **properties}, "required": needed}


def _operation(operation: Operation) -> Schema:
    schema: Schema = {
        "operationId": f"{operation.method}{operation.path.translate(_PLAIN)}",
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.body:
        media_type, kind = operation.body
        schema["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": _reference(kind)}},
        }
    if "{name}" in operation.path:
        schema["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if operation.secret:
        # Optional: without keys in the environment nothing is asked for.
        schema["security"] = (
            [{}, {operation.secret: []}] if operation.secret == "key" else [{operation.secret: []}]
        )
    return schema


_PLAIN = str.maketrans({"/": "_", "{": None, "}": None, ".": "_"})


def _responses(operation: Operation) -> Schema:
    good: Schema = {
        "description": "Done.",
        "content": {name: _content(kind) for name, kind in operation.answers.items()},
    }
    refused: Schema = {
        "description": "Refused or failed; `error.code` says why.",
        "content": {JSON: _content(ErrorBody)},
    }
    statuses: Schema = {str(status): good for status in (200, *operation.also)}
    return statuses | {str(status): refused for status in operation.refuses}


def _content(kind: type | None) -> Schema:
    return {} if kind is None else {"schema": _reference(kind)}


def _reference(kind: type) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def documented() -> Iterable[tuple[str, str]]:
    """Method and path of everything in the document."""
    return ((operation.method.upper(), operation.path) for operation in OPERATIONS)
