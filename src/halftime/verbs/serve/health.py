"""/readyz: the warm-up certificate, 503 until there is one. /v1/models, /metrics."""

from __future__ import annotations

import math

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from halftime.base import units
from halftime.http.endpoints import ModelObject, json_response, models_response
from halftime.records.serve import Certificate, EngineStatus, State, WorkerStatus
from halftime.verbs.serve.models import ModelEngines
from halftime.verbs.serve.request import COMES_BACK, no_such_model, steps_for
from halftime.verbs.serve.service import Service, service_of


class Choices(msgspec.Struct, kw_only=True, frozen=True):
    """What a client can ask for without being snapped or refused. Sizes are written
    WIDTHxHEIGHT."""

    model: str
    sizes: tuple[str, ...]
    steps: tuple[int, ...]
    default_steps: int
    previews: bool
    edits: bool
    masks: bool = False
    references: int = 1  # pictures that an edit may bring
    loras: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()  # of videos; empty where pictures are drawn
    fps: float | None = None


class Readiness(msgspec.Struct, kw_only=True):
    """GET /readyz. `facts` are the certificate in words, for people."""

    state: State
    why: str
    offer: Choices | None  # of the model that is drawn with where none is named
    offers: tuple[Choices, ...]  # of every model
    certificate: Certificate | None
    alarms: tuple[str, ...]
    workers: tuple[WorkerStatus, ...]
    facts: list[tuple[str, str]]


async def readyz(request: Request) -> Response:
    """What is warm, and why not yet where it is not."""
    service = service_of(request)
    readiness = readiness_of(service)
    ready = readiness.state == "ready"
    again = str(math.ceil(service.engine.status.ready_in or COMES_BACK))
    headers = {"cache-control": "no-store"} | ({} if ready else {"retry-after": again})
    return json_response(readiness, 200 if ready else 503, headers)


async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    return service_of(request).metrics.response()


async def models(request: Request) -> Response:
    """The model under each of its names, as OpenAI's client lists it."""
    return models_response(service_of(request).settings.names)


async def model(request: Request) -> Response:
    """The model by one of its names."""
    name, settings = request.path_params["name"], service_of(request).settings
    if name not in settings.names:
        raise no_such_model(settings, name)
    return json_response(ModelObject(id=name))


def readiness_of(service: Service) -> Readiness:
    """The state now; a draining server is not ready, however warm its engine is."""
    status = service.engine.status
    certificate, offers = status.certificate, offers_of(service)
    return Readiness(
        state="draining" if service.traffic.draining else status.state,
        why=status.why,
        offer=offers[0] if offers else None,
        offers=offers,
        certificate=certificate,
        alarms=status.alarms,
        workers=status.workers,
        facts=_facts(certificate, status) if certificate else [],
    )


def offers_of(service: Service) -> tuple[Choices, ...]:
    """What each model offers that has been ready."""
    engine, name = service.engine, service.settings.model
    engines = engine.engines if isinstance(engine, ModelEngines) else {name: engine}
    certificates = [(model, drawing.status.certificate) for model, drawing in engines.items()]
    return tuple(_choices(model, proof) for model, proof in certificates if proof is not None)


def _facts(certificate: Certificate, status: EngineStatus) -> list[tuple[str, str]]:
    cold = certificate.cold_start
    facts = [
        ("pipeline", certificate.pipeline),
        ("sizes", ", ".join(f"{width} × {height}" for width, height in certificate.sizes)),
        ("steps", ", ".join(map(str, certificate.steps))),
        ("pictures at once", ", ".join(map(str, certificate.batch_sizes))),
        ("kinds of call that ran", units.count(len(certificate.entries))),
        ("compiled since ready", units.count(status.recompiles)),
        ("one picture takes", units.seconds(status.seconds_per_picture)),
    ]
    if certificate.scheduling_why:
        facts.append((f"scheduled at the {certificate.scheduling}", certificate.scheduling_why))
    if len(status.workers) > 1:
        ready = sum(worker.state == "ready" for worker in status.workers)
        facts.append(("workers ready", f"{ready} of {len(status.workers)}"))
    if cold:
        facts.append(("from start to ready", units.seconds(cold.ready_seconds)))
    return facts + [("fixes", ", ".join(certificate.fixes))] * bool(certificate.fixes)


def _choices(model: str, certificate: Certificate) -> Choices:
    return Choices(
        model=model,
        sizes=tuple(f"{width}x{height}" for width, height in certificate.sizes),
        steps=certificate.steps,
        default_steps=steps_for(certificate.steps, "medium"),
        previews=certificate.previews,
        edits=certificate.img2img,
        masks=certificate.inpaint,
        references=certificate.references,
        loras=certificate.loras,
        frames=certificate.frames,
        fps=certificate.fps,
    )
