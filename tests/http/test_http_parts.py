"""The parts of the HTTP room by themselves."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from halftime.base.listening import address_of, listening_socket
from halftime.http.access import AccessControl, matches
from halftime.http.disconnect import ClientLeft, unless_disconnected
from halftime.http.endpoints import healthz, models_response
from halftime.http.errors import ERROR_HANDLERS, ApiError, ErrorBody
from halftime.http.limits import LimitedBodies
from halftime.http.metrics import HttpMetrics
from halftime.http.traffic import Observed, Traffic, pieces


@pytest.mark.parametrize(
    ("secret", "keys", "fits"),
    [
        ("a", ("a",), True),
        ("b", ("a", "b"), True),
        ("", ("a",), False),
        ("A", ("a",), False),
        ("aa", ("a",), False),
        ("\udcff", ("a",), False),
        ("ü", ("ü",), True),
        ("a", (), False),
    ],
)
def test_keys(secret: str, keys: tuple[str, ...], fits: bool) -> None:
    assert matches(secret, keys) is fits


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (503, "server_error")],
)
def test_errors_in_openais_words(status: int, kind: str) -> None:
    error = ApiError(status, "Said.", code="c", param="p", retry_after=0.2)
    body = msgspec.json.decode(error.body(), type=ErrorBody).error
    assert (body.message, body.type, body.code, body.param) == ("Said.", kind, "c", "p")
    assert error.headers() == {"retry-after": "1"}
    # OpenAI's client ignores more than a minute, and would come back at once
    long = ApiError(status, "Said.", retry_after=240.0).headers()
    assert long == {"retry-after": "240", "retry-after-ms": "60000"}


@given(st.integers(0, 3 * 256 * 1024 + 1), st.booleans())
def test_pieces_are_the_body(size: int, more: bool) -> None:
    message = {"type": "http.response.body", "body": bytes(size), "more_body": more}
    parts = list(pieces(message))
    assert b"".join(piece["body"] for piece in parts) == message["body"]
    assert [piece["more_body"] for piece in parts] == [True] * (len(parts) - 1) + [more]
    assert max(len(piece["body"]) for piece in parts) <= 256 * 1024


def test_work_is_cancelled_and_waited_for_when_the_client_leaves() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        asyncio.run(unless_disconnected(receive, work()))
    assert ended == [True]


def application(traffic: Traffic, **changes: object) -> Starlette:
    async def echo(request: Request) -> PlainTextResponse:
        if request.query_params.get("fails"):
            raise ValueError("a secret")
        return PlainTextResponse((await request.body()).decode())

    async def models(_: Request) -> object:
        return models_response(["first", "second"])

    values = {"keys": (), "most": 10, "seconds": None, **changes}
    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", lambda _: traffic.metrics.response()),
            Route("/v1/models", models),
            Route("/v1/{path:path}", echo, methods=["POST"]),
        ],
        middleware=[
            Middleware(Observed, traffic=traffic),
            Middleware(AccessControl, keys=values["keys"]),
            Middleware(LimitedBodies, most=values["most"], seconds=values["seconds"]),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


@pytest.fixture
def traffic() -> Traffic:
    return Traffic(HttpMetrics())


def test_requests_are_numbered_and_counted_by_route(traffic: Traffic) -> None:
    client = TestClient(application(traffic))
    answer = client.post("/v1/echo", content="words")
    assert (answer.text, len(answer.headers["x-request-id"])) == ("words", 16)
    assert client.get("/healthz").text == "ok\n"
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["first", "second"]
    text = client.get("/metrics").text
    assert 'http_response_status_code="200",http_route="/v1/{path:path}"' in text
    assert traffic.active == 0


@pytest.mark.parametrize(
    ("request_values", "changes", "status", "code"),
    [
        ({"content": "x" * 11}, {}, 413, "body_too_large"),
        ({"content": "x"}, {"keys": ("k",)}, 401, "invalid_api_key"),
        ({"headers": {"origin": "http://elsewhere"}}, {}, 403, "cross_origin"),
        ({"params": {"fails": "1"}}, {}, 500, "internal"),
    ],
)
def test_refusals_are_in_openais_shape_and_counted(
    traffic: Traffic, request_values: dict, changes: dict, status: int, code: str
) -> None:
    client = TestClient(application(traffic, **changes))
    answer = client.post("/v1/echo", **request_values)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text
    label = code if code != "internal" else "500"
    assert f'halftime_requests_rejected_total{{code="{label}"}} 1.0' in client.get("/metrics").text


def test_a_draining_server_refuses_requests_and_stays_healthy(traffic: Traffic) -> None:
    client = TestClient(application(traffic))
    traffic.draining = True
    answer = client.post("/v1/echo", content="words")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert answer.headers["connection"] == "close"
    assert client.get("/healthz").status_code == 200


def test_a_body_that_does_not_arrive_is_refused() -> None:
    sent = []

    async def app(scope: dict, receive: object, send: object) -> None:
        await receive()  # type: ignore[operator]

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    limited = LimitedBodies(app, most=10, seconds=0.01)  # type: ignore[arg-type]
    with pytest.raises(ApiError) as raised:
        asyncio.run(limited({"type": "http"}, receive, sent.append))  # type: ignore[arg-type]
    assert (raised.value.status, raised.value.retry) == (408, False)


def test_a_socket_listens_before_its_address_is_told() -> None:
    with listening_socket("127.0.0.1", 0, stalled_seconds=1.5) as listener:
        assert address_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            # or each small piece of a stream would wait for the one before it to be acknowledged
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
