"""OpenTelemetry: a span a request by its ASGI instrumentation, and under it the parts of drawing.

Needs the extra `otel`. Where spans go is OpenTelemetry's own to say: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME and the other variables of its specification.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halftime.base.extras import optional
from halftime.http.access import KEY
from halftime.http.traffic import NUMBER, TIMING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXTRA, PURPOSE = "otel", "halftime serve --otel"
_SERVICE = "halftime"
# Probes are no requests; a picture's path is the key to it.
_UNTRACED = "/healthz$,/readyz$,/metrics$,/pictures/"


def exporting() -> Any:
    """A tracer provider whose spans go where OpenTelemetry's variables say. Raises MissingExtra."""
    trace = optional("opentelemetry.sdk.trace", EXTRA, PURPOSE)
    resources = optional("opentelemetry.sdk.resources", EXTRA, PURPOSE)
    export = optional("opentelemetry.sdk.trace.export", EXTRA, PURPOSE)
    otlp = optional("opentelemetry.exporter.otlp.proto.http.trace_exporter", EXTRA, PURPOSE)
    named = resources.OTELResourceDetector().detect().attributes.get(resources.SERVICE_NAME)
    resource = resources.Resource.create({} if named else {resources.SERVICE_NAME: _SERVICE})
    provider = trace.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return provider


def traced(app: ASGIApp, provider: Any) -> ASGIApp:
    """The application, each of whose requests becomes a span. Raises MissingExtra."""
    asgi = optional("opentelemetry.instrumentation.asgi", EXTRA, PURPOSE)
    middleware: ASGIApp = asgi.OpenTelemetryMiddleware(
        PartSpans(app, provider.get_tracer("halftime.serve")),
        excluded_urls=_UNTRACED,
        tracer_provider=provider,
        exclude_spans=["receive", "send"],
    )
    return middleware


def trace_fields() -> Mapping[str, object]:
    """The ids of the trace that the running request belongs to, for its line in the log."""
    trace = optional("opentelemetry.trace", EXTRA, PURPOSE)
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


class PartSpans:
    """ASGI middleware: what a request's time went into, as spans below its own, laid end to end as
    the parts were. Of several pictures they are the slowest one's."""

    def __init__(self, app: ASGIApp, tracer: Any) -> None:
        self.app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.time_ns()

        async def noted(message: Message) -> None:
            # the request's own span ends with the last piece
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._note(scope, begun)
            await send(message)

        await self.app(scope, receive, noted if scope["type"] == "http" else send)

    def _note(self, scope: Scope, begun: int) -> None:
        span = optional("opentelemetry.trace", EXTRA, PURPOSE).get_current_span()
        span.set_attribute("halftime.request_id", scope.get(NUMBER, ""))
        if scope.get(KEY):
            span.set_attribute("halftime.key", scope[KEY])
        for part, seconds in scope.get(TIMING, {}).items():
            ended = begun + int(1e9 * seconds)
            self._tracer.start_span(part, start_time=begun).end(end_time=ended)
            begun = ended
