"""An order: a checked request turned into jobs, one a picture, and how the pictures are to be
handed over."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Literal

from halftime.http.errors import ApiError
from halftime.records.serve import Certificate
from halftime.verbs.serve.encode import PictureFormat
from halftime.verbs.serve.messages import Job
from halftime.verbs.serve.offer import certificate_of, quality_of, size_for, steps_for
from halftime.verbs.serve.schema import EditRequest, ImageRequest, ResolvedQuality
from halftime.verbs.serve.service import Service

Kind = Literal["image_generation", "image_edit"]
_QUALITIES: dict[str, ResolvedQuality] = {
    "low": "low",
    "high": "high",
    "hd": "high",
    "xhigh": "high",
    "max": "high",
}
_MOST_RANDOM = 2**32


@dataclass(frozen=True)
class Order:
    """What was asked for. `begun` is on time.perf_counter, for the timings that the client is
    told."""

    id: str
    kind: Kind
    jobs: tuple[Job, ...]
    picture_format: PictureFormat
    compression: int
    quality: ResolvedQuality
    as_url: bool
    stream: bool
    begun: float


def order_of(
    service: Service, wanted: ImageRequest, kind: Kind, begun: float, image: bytes | None = None
) -> Order:
    """The order for a request. Raises ApiError for what fits the schema and still cannot be done
    here."""
    certificate = certificate_of(service.engine.status)
    _check(service, certificate, wanted, kind)
    asked = _QUALITIES.get(wanted.quality or "auto", "medium")
    number = secrets.token_hex(8)
    steps = wanted.steps or steps_for(certificate.steps, asked)
    quality = quality_of(certificate.steps, wanted.steps) if wanted.steps else asked
    return Order(
        id=number,
        kind=kind,
        jobs=tuple(
            _job(service, certificate, wanted, f"{number}-{index}", steps, seed, image)
            for index, seed in enumerate(_seeds(wanted))
        ),
        picture_format=wanted.output_format or "png",
        compression=100 if wanted.output_compression is None else wanted.output_compression,
        quality=quality,
        as_url=wanted.response_format == "url",
        stream=bool(wanted.stream),
        begun=begun,
    )


def _seeds(wanted: ImageRequest) -> list[int]:
    """The n-th picture has the n-th seed from the one asked for, so that each can be drawn alone
    again."""
    first = secrets.randbelow(_MOST_RANDOM) if wanted.seed is None else wanted.seed
    return [first + index for index in range(wanted.n or 1)]


def _job(
    service: Service,
    certificate: Certificate,
    wanted: ImageRequest,
    name: str,
    steps: int,
    seed: int,
    image: bytes | None,
) -> Job:
    width, height = size_for(certificate, wanted.size)
    settings = service.settings
    return Job(
        id=name,
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt or None,
        width=width,
        height=height,
        steps=steps,
        guidance=wanted.guidance,
        seed=seed,
        previews=(wanted.partial_images or 0) if wanted.stream else 0,
        image=image,
        strength=wanted.strength if isinstance(wanted, EditRequest) else None,
        deadline=time.time() + settings.deadline,
        profile=service.profiled.take(),
    )


def _check(service: Service, certificate: Certificate, wanted: ImageRequest, kind: Kind) -> None:
    if wanted.model not in (None, "", service.settings.model):
        message = (
            f"The model {wanted.model!r} does not exist here; this server draws with "
            f"{service.settings.model!r}."
        )
        raise ApiError(404, message, code="model_not_found", param="model")
    if kind == "image_edit" and not certificate.img2img:
        raise ApiError(
            400, f"{certificate.pipeline} cannot draw from a picture.", code="unsupported_operation"
        )
    most = service.settings.most_pictures
    if (wanted.n or 1) > most:
        message = (
            f"n is {wanted.n}; this server takes {most} pictures a request at most, as many "
            "as may wait here."
        )
        raise ApiError(400, message, code="unsupported_value", param="n")
    if wanted.stream and (wanted.n or 1) > 1:
        raise ApiError(
            400,
            "A stream carries one picture: leave n out, or send several requests.",
            code="unsupported_value",
            param="n",
        )
    if wanted.stream and wanted.response_format == "url":
        raise ApiError(
            400,
            "A stream carries b64_json only.",
            code="unsupported_value",
            param="response_format",
        )
    if wanted.output_format in (None, "png") and wanted.output_compression not in (None, 100):
        raise ApiError(
            400,
            "PNG is lossless: output_compression is for jpeg and webp.",
            code="unsupported_value",
            param="output_compression",
        )
