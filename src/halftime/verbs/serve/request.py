"""A request: its body read and checked, and turned into jobs, one a picture.

Refusals name the parameter at fault, as OpenAI's API does.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, NamedTuple, TypeVar

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from halftime.http.errors import ApiError
from halftime.records.serve import Certificate, EngineStatus
from halftime.verbs.serve.files import PictureFormat
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.schema import MOST_RANDOM, EditRequest, ImageRequest, ResolvedQuality
from halftime.verbs.serve.service import HttpSettings, Service
from halftime.verbs.serve.spellings import guidance_of, seed_of, steps_of

Body = TypeVar("Body", bound=msgspec.Struct)
Kind = Literal["image_generation", "image_edit"]
_QUALITIES: dict[str, ResolvedQuality] = {
    "low": "low",
    "high": "high",
    "hd": "high",
    "xhigh": "high",
    "max": "high",
}
COMES_BACK = 2.0  # seconds after which to ask again where nobody knows better
_MOST_FIELDS = 40
_MOST_FILES = 17  # 16 pictures, as OpenAI's, and a mask
_PICTURE_FIELD = re.compile(r"image(\[\d*\])?")


class Uploads(NamedTuple):
    """The files of a form."""

    images: tuple[BinaryIO, ...]
    mask: BinaryIO | None


# ---- the body


async def json_body(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises ApiError: 415 for another media type, 400 for anything that does
    not fit."""
    # Asking for application/json also makes browsers ask first before another site's page may post
    # here.
    if media_type(request) != "application/json":
        raise ApiError(415, "Send the body as application/json.", code="unsupported_media_type")
    data = await request.body()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from error


@contextlib.asynccontextmanager
async def multipart_body(request: Request, kind: type[Body]) -> AsyncIterator[tuple[Body, Uploads]]:
    """The fields as `kind`, and the files, which are on disk where they are large. Raises ApiError,
    as `json_body`."""
    async with form_body(request, kind, ("image", "mask")) as (body, files):
        if "image" not in files:
            raise ApiError(
                400,
                "Missing required parameter: 'image', a file.",
                code="missing_parameter",
                param="image",
            )
        mask = files["mask"][0].file if "mask" in files else None
        yield body, Uploads(tuple(upload.file for upload in files["image"]), mask)


@contextlib.asynccontextmanager
async def form_body(
    request: Request, kind: type[Body], names: tuple[str, ...]
) -> AsyncIterator[tuple[Body, dict[str, list[UploadFile]]]]:
    """The fields of a form as `kind`, and its files, which may have these names. Raises ApiError,
    as `json_body`."""
    if media_type(request) != "multipart/form-data":
        raise ApiError(415, "Send the body as multipart/form-data.", code="unsupported_media_type")
    async with contextlib.AsyncExitStack() as stack:
        with _form_errors():
            form = await stack.enter_async_context(
                request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS)
            )
            fields, files = _parts(form)
        unsupported = min(set(files) - {*names}, default=None)
        if unsupported is not None:
            raise ApiError(
                400,
                f"{unsupported!r} is not supported: send files as {' or '.join(map(repr, names))}.",
                code="unsupported_parameter",
                param=unsupported,
            )
        try:
            body = msgspec.convert(fields, kind, strict=False)
        except msgspec.ValidationError as error:
            raise _invalid(error) from error
        yield body, files


@contextlib.contextmanager
def _form_errors() -> Iterator[None]:
    """What starlette and python-multipart raise for what they cannot read, as ApiError."""
    try:
        yield
    except HTTPException as error:
        raise ApiError(
            400, f"The multipart body cannot be read: {error.detail}", code="invalid_body"
        ) from error
    except (UnicodeDecodeError, LookupError, ValueError) as error:
        # python-multipart lets some of what it cannot read through as it comes: a charset nobody
        # knows, a broken name.
        raise ApiError(400, "The multipart body cannot be read.", code="invalid_body") from error


def _parts(form: FormData) -> tuple[dict[str, str], dict[str, list[UploadFile]]]:
    fields: dict[str, str] = {}
    files: dict[str, list[UploadFile]] = {}
    for name, value in form.multi_items():
        is_file = isinstance(value, UploadFile)
        key = "image" if is_file and _PICTURE_FIELD.fullmatch(name) else name
        if key in fields or (key in files and not (is_file and key == "image")):
            message = f"{key!r} was sent twice; send it once."
            raise ApiError(400, message, code="duplicate_field", param=key)
        if isinstance(value, UploadFile):
            files.setdefault(key, []).append(value)
        else:
            fields[key] = value
    return fields, files


def media_type(request: Request) -> str:
    """What a body says that it is, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


# msgspec's own words
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")
_PATH = re.compile(r" - at `\$\.?(?P<name>[^`]*)`$")


def _invalid(error: msgspec.ValidationError) -> ApiError:
    """msgspec's words, in OpenAI's."""
    text = str(error)
    if match := _UNKNOWN.search(text):
        message, code = f"Unknown parameter: {match['name']!r}.", "unknown_parameter"
    elif match := _MISSING.search(text):
        message, code = f"Missing required parameter: {match['name']!r}.", "missing_parameter"
    elif (match := _PATH.search(text)) and match["name"]:
        message, code = f"Invalid {match['name']!r}: {text[: match.start()]}.", "invalid_value"
    else:
        message, code = f"{_PATH.sub('', text)}.", "invalid_value"
    name = match["name"] if match else None
    return ApiError(400, message, code=code, param=name)


# ---- what it asks for


class StartingPictures(NamedTuple):
    """What a job is to draw from: one picture, perhaps within a mask, or references."""

    image: bytes | None = None
    mask: bytes | None = None
    references: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class PictureRequest:
    """A checked request. `begun` is on time.perf_counter, for the timings in the answer."""

    kind: Kind
    jobs: tuple[Job, ...]
    picture_format: PictureFormat
    compression: int
    quality: ResolvedQuality
    as_url: bool
    stream: bool
    begun: float
    client: str  # a key's name, or an address
    before: dict[str, float]  # stage -> seconds of what was done before its jobs were submitted

    def drawn_from(self, pictures: StartingPictures, seconds: float) -> PictureRequest:
        """The same, starting from pictures whose preparation took so long."""
        jobs = tuple(
            msgspec.structs.replace(
                job, image=pictures.image, mask=pictures.mask, references=pictures.references
            )
            for job in self.jobs
        )
        return replace(self, jobs=jobs, before={**self.before, "upload": seconds})


def checked_request(
    service: Service, body: ImageRequest, kind: Kind, begun: float, client: str = ""
) -> PictureRequest:
    """The request of a body that has just come in. Raises ApiError for what fits the schema and
    still cannot be done here."""
    received = time.perf_counter() - begun
    certificate = certificate_of(service.engine.status)
    _check(service, certificate, body, kind)
    quality = _QUALITIES.get(body.quality or "auto", "medium")
    number = steps_of(body)
    steps = number or steps_for(certificate.steps, quality)
    return PictureRequest(
        kind=kind,
        jobs=_jobs(service, body, size_for(certificate, body.size), steps, client),
        picture_format=body.output_format or "png",
        compression=100 if body.output_compression is None else body.output_compression,
        quality=quality_of(certificate.steps, number) if number else quality,
        as_url=body.response_format == "url",
        stream=bool(body.stream),
        begun=begun,
        client=client,
        before={"receive": received},
    )


def _jobs(
    service: Service, body: ImageRequest, size: tuple[int, int], steps: int, client: str
) -> tuple[Job, ...]:
    """One job a picture. Their seeds count up, so that each can be drawn alone again."""
    number = secrets.token_hex(8)
    first = seed_of(body)
    seed = secrets.randbelow(MOST_RANDOM) if first is None else first
    seconds = min(body.deadline_seconds or math.inf, service.settings.deadline)
    deadline = time.monotonic() + seconds
    return tuple(
        Job(
            id=f"{number}-{index}",
            prompt=body.prompt,
            negative_prompt=body.negative_prompt or None,
            width=size[0],
            height=size[1],
            steps=steps,
            guidance=guidance_of(body),
            seed=seed + index,
            previews=(body.partial_images or 0) if body.stream else 0,
            strength=body.strength if isinstance(body, EditRequest) else None,
            off_list=body.off_list,
            lora=body.lora,
            lora_scale=1.0 if body.lora_scale is None else body.lora_scale,
            client=client,
            weight=service.quotas.weight(client),
            deadline=deadline,
            profile=service.profiler.take(),
        )
        for index in range(body.n or 1)
    )


def certificate_of(status: EngineStatus) -> Certificate:
    """The engine's certificate. Raises ApiError (503) while there is none."""
    if status.state != "ready" or status.certificate is None:
        message = f"The server is {status.state}, not ready. {status.why}".strip()
        again = status.ready_in or COMES_BACK
        raise ApiError(503, message, code="not_ready", retry_after=again)
    return status.certificate


def no_such_model(settings: HttpSettings, name: str) -> ApiError:
    """404, with the names that there are."""
    names = ", ".join(map(repr, settings.names))
    message = (
        f"The model {name!r} does not exist here; this server draws with {names}. Where a client "
        f"can ask for nothing else, start it with --alias {shlex.quote(name)}."
    )
    return ApiError(404, message, code="model_not_found", param="model")


def steps_for(listed_steps: tuple[int, ...], quality: ResolvedQuality) -> int:
    """OpenAI's quality as steps: low is the fewest listed, high the most, medium and auto the
    middle one."""
    ordered = sorted(listed_steps)
    return {"low": ordered[0], "medium": ordered[len(ordered) // 2], "high": ordered[-1]}[quality]


def quality_of(listed_steps: tuple[int, ...], steps: int) -> ResolvedQuality:
    """The quality whose steps are nearest to these: what an answer says where steps were given as
    a number."""
    # medium where there is only one count
    qualities: tuple[ResolvedQuality, ...] = ("medium", "low", "high")
    return min(qualities, key=lambda quality: abs(steps_for(listed_steps, quality) - steps))


def size_for(certificate: Certificate, size: str | None) -> tuple[int, int]:
    """'512x768' -> (512, 768); nothing or 'auto' is the first size listed. The engine snaps or
    refuses others."""
    if size is None or size == "auto":
        return certificate.sizes[0]
    width, _, height = size.partition("x")
    return int(width), int(height)


def _check(service: Service, certificate: Certificate, body: ImageRequest, kind: Kind) -> None:
    if body.model and body.model not in service.settings.names:
        raise no_such_model(service.settings, body.model)
    if kind == "image_edit" and not certificate.img2img:
        raise ApiError(
            400, f"{certificate.pipeline} cannot draw from a picture.", code="unsupported_operation"
        )
    if certificate.frames:
        raise ApiError(
            400,
            f"{certificate.pipeline} makes videos: ask /v1/videos.",
            code="unsupported_operation",
        )
    most = service.settings.most_pictures
    if (body.n or 1) > most:
        message = (
            f"n is {body.n}; this server draws at most {most} pictures a request, as many as may "
            "wait here."
        )
        raise ApiError(400, message, code="unsupported_value", param="n")
    if body.response_format == "url" and service.pictures is None:
        raise ApiError(
            400,
            "Pictures by URL are off here: ask for b64_json.",
            code="unsupported_value",
            param="response_format",
        )
    if body.stream and body.response_format == "url":
        raise ApiError(
            400,
            "A stream carries b64_json only.",
            code="unsupported_value",
            param="response_format",
        )
    if body.background == "transparent":
        raise ApiError(
            400,
            "Pictures drawn here are opaque: leave background out, or send 'auto' or 'opaque'.",
            code="unsupported_value",
            param="background",
        )
