"""What an operator sees of a request: its line in the log, and its trace."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator

import pytest
from serve_app import InProcess, in_process

from halftime.http.access_log import JsonLines

PROMPT = "a red apple"
SECRET = "sk-secret"
SENT = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture(scope="module")
def server() -> Iterator[InProcess]:
    with in_process(api_keys=(SECRET,)) as running:
        yield running


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict]:
    formatter = JsonLines()
    return [json.loads(formatter.format(record)) for record in caplog.records]


def test_a_requests_line_says_who_and_how_long_and_not_what(
    server: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "halftime.http"):
        answer = server.http.post(
            "/v1/images/generations", json={"prompt": PROMPT, "seed": 5}, headers=SENT
        )
    (line,) = lines_of(caplog)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["method"], line["route"]) == ("POST", "/v1/images/generations")
    assert (line["status"], line["key"]) == (200, "key-1")
    timing = answer.json()["usage"]["halftime"]
    assert list(line["timing"]) == ["receive", "upload", "queue", "denoise", "file", "rest"]
    assert line["timing"]["queue"] == timing["queue_seconds"]
    assert line["seconds"] > 0
    assert PROMPT not in json.dumps(line)
    assert SECRET not in json.dumps(line)


def test_a_streams_line_has_its_timing_too(
    server: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "halftime.http"):
        body = {"prompt": PROMPT, "stream": True}
        assert server.http.post("/v1/images/generations", json=body, headers=SENT).text
    (line,) = lines_of(caplog)
    assert line["timing"]["denoise"] == 0.1


def test_a_refusals_line_has_its_code(server: InProcess, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "halftime.http"):
        server.http.post("/v1/images/generations", json={"prompt": PROMPT})
    (line,) = lines_of(caplog)
    assert (line["status"], line["code"]) == (401, "invalid_api_key")
    assert "key" not in line
    assert "timing" not in line


# ---- traces


@pytest.fixture(scope="module")
def spans(server: InProcess) -> dict[str, list]:
    """Spans by name, as OpenTelemetry's own exporter in memory has them, of one picture, and of
    requests that are not to be traced."""
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from starlette.testclient import TestClient

    from halftime.verbs.serve.tracing import traced

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # without its lifespan: the engine runs in the other client's
    client = TestClient(traced(server.http.app, provider), base_url="http://127.0.0.1:8000")
    for path in ("/healthz", "/readyz", "/metrics", "/pictures/secret-name"):
        client.get(path)
    return spans_of(server, client, exporter)


def spans_of(server: InProcess, client: object, exporter: object) -> dict[str, list]:
    portal = server.http.portal
    assert portal is not None
    client.portal = portal  # type: ignore[attr-defined]  # one event loop for both
    headers = SENT | {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    body = {"prompt": PROMPT, "response_format": "url"}
    answer = client.post("/v1/images/generations", json=body, headers=headers)  # type: ignore[attr-defined]
    assert answer.status_code == 200
    by_name: dict[str, list] = {"": [answer.headers["x-request-id"]]}
    for span in exporter.get_finished_spans():  # type: ignore[attr-defined]
        by_name.setdefault(span.name, []).append(span)
    return by_name


def test_a_request_is_a_span_of_its_callers_trace(spans: dict[str, list]) -> None:
    (span,) = spans["POST /v1/images/generations"]
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.attributes["halftime.request_id"] == spans[""][0]
    assert span.attributes["halftime.key"] == "key-1"


def test_the_parts_of_drawing_are_spans_below_it_end_to_end(spans: dict[str, list]) -> None:
    (request,) = spans["POST /v1/images/generations"]
    parts = [spans[name][0] for name in ("receive", "upload", "queue", "denoise", "file", "rest")]
    assert {part.parent.span_id for part in parts} == {request.context.span_id}
    assert all(before.end_time == after.start_time for before, after in itertools.pairwise(parts))


def test_no_prompt_no_key_and_no_pictures_name_is_traced(spans: dict[str, list]) -> None:
    names = set(spans) - {""}
    assert not any(word in name for name in names for word in ("health", "ready", "metrics"))
    text = " ".join(span.to_json() for name in names for span in spans[name])
    assert not any(word in text for word in (PROMPT, SECRET, "secret-name"))
