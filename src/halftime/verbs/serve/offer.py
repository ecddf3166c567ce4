"""What can be chosen, read off the warm-up certificate; and /readyz, which shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from halftime.base import units
from halftime.http.errors import ApiError
from halftime.records.serve import Certificate, EngineStatus, State

if TYPE_CHECKING:
    from halftime.verbs.serve.schema import ResolvedQuality
    from halftime.verbs.serve.service import Service


class Offer(msgspec.Struct, kw_only=True, frozen=True):
    """What a client can ask for without being snapped or refused. Sizes are written
    WIDTHxHEIGHT."""

    model: str
    sizes: tuple[str, ...]
    steps: tuple[int, ...]
    default_steps: int
    previews: bool
    edits: bool


class Readiness(msgspec.Struct, kw_only=True):
    """GET /readyz. `facts` are the certificate in words, for people."""

    state: State
    why: str
    offer: Offer | None
    certificate: Certificate | None
    alarms: tuple[str, ...]
    facts: list[tuple[str, str]]


def offer_of(model: str, certificate: Certificate) -> Offer:
    """The offer of a certificate."""
    return Offer(
        model=model,
        sizes=tuple(f"{width}x{height}" for width, height in certificate.sizes),
        steps=certificate.steps,
        default_steps=steps_for(certificate.steps, "medium"),
        previews=certificate.previews,
        edits=certificate.img2img,
    )


def certificate_of(status: EngineStatus) -> Certificate:
    """The certificate that stands. Raises ApiError (503) while there is none."""
    if status.state != "ready" or status.certificate is None:
        message = f"The server is {status.state}, not ready. {status.why}".strip()
        raise ApiError(503, message, code="not_ready", retry_after=2.0)
    return status.certificate


def steps_for(listed: tuple[int, ...], quality: ResolvedQuality) -> int:
    """OpenAI's quality as steps: low is the fewest listed, high the most, medium and auto the
    middle one."""
    ordered = sorted(listed)
    return {"low": ordered[0], "medium": ordered[len(ordered) // 2], "high": ordered[-1]}[quality]


def quality_of(listed: tuple[int, ...], steps: int) -> ResolvedQuality:
    """The quality whose steps are nearest to these: what an answer says where steps were asked for
    by number."""
    # medium where there is only one count
    qualities: tuple[ResolvedQuality, ...] = ("medium", "low", "high")
    return min(qualities, key=lambda quality: abs(steps_for(listed, quality) - steps))


def size_for(certificate: Certificate, size: str | None) -> tuple[int, int]:
    """'512x768' -> (512, 768); nothing or 'auto' is the first size listed. The engine snaps or
    refuses others."""
    if size is None or size == "auto":
        return certificate.sizes[0]
    width, _, height = size.partition("x")
    return int(width), int(height)


def readiness_of(service: Service) -> Readiness:
    """The state now; a server that drains is not ready, however warm its engine is."""
    status = service.engine.status
    certificate = status.certificate
    return Readiness(
        state="draining" if service.traffic.draining else status.state,
        why=status.why,
        offer=offer_of(service.settings.model, certificate) if certificate else None,
        certificate=certificate,
        alarms=status.alarms,
        facts=_facts(certificate, status) if certificate else [],
    )


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
    if cold:
        facts.append(("from start to ready", units.seconds(cold.ready_seconds)))
    return facts + [("fixes", ", ".join(certificate.fixes))] * bool(certificate.fixes)
