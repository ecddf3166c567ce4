"""What clients do wrong, by accident or on purpose: each gets an answer in OpenAI's shape, and
nobody else notices."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from serve_fake import ENDLESS, RecordingEngine, Running, http, serving, wait_until

DRAW = "/v1/images/generations"
EDIT = "/v1/images/edits"
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(most_body=2**20) as server:
        yield server


def error_of(answer: httpx2.Response) -> dict[str, str | None]:
    """The error of an answer, which is whole."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def draws(running: Running) -> bool:
    """Whether the server still draws."""
    return http.post(running.address + DRAW, json={"prompt": "p"}).status_code == 200


def png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(file, "PNG")
    return file.getvalue()


JSON_BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b"\xff",
    b'{"prompt": "\\ud800"}',
    b'{"prompt": NaN}',
    b"[" * 99_999,
    b'{"prompt": 1}',
    b'{"prompt": "p", "n": "2"}',
    b'{"prompt": "p", "seed": 99999999999999999999}',
    b'{"prompt": "p", "steps": 1e400}',
    b'{"prompt": "p", "guidance": -1}',
    b'{"prompt": "p"} trailing',
    b'{"prompt": "p", "size": "0x64"}',
    '{"prompt": "p", "size": "٣x٣"}'.encode(),
]


@pytest.mark.parametrize("body", JSON_BODIES, ids=lambda body: repr(body[:40]))
def test_json_that_does_not_fit(running: Running, body: bytes) -> None:
    answer = http.post(
        running.address + DRAW, content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def part(name: str, content: bytes, extra: bytes = b"") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="'
        + name.encode()
        + b'"'
        + extra
        + b"\r\n\r\n"
        + content
        + b"\r\n"
    )


FILE = b'; filename="a.png"\r\nContent-Type: image/png'
END = b"--b--\r\n"
MULTIPART_BODIES = {
    "empty": b"",
    "no boundary in it": b"hello",
    "cut in a header": b"--b\r\nContent-Disposition: form-da",
    "cut in a part": part("prompt", b"p")[:-4],
    "no end": part("prompt", b"p") + part("image", png(), FILE),
    "no prompt": part("image", png(), FILE) + END,
    "no picture": part("prompt", b"p") + END,
    "picture without a filename": part("prompt", b"p") + part("image", b"text") + END,
    "not a picture": part("prompt", b"p") + part("image", b"hello", FILE) + END,
    "half a picture": part("prompt", b"p") + part("image", png(64, 64)[:900], FILE) + END,
    "two pictures": part("prompt", b"p") + 2 * part("image", png(), FILE) + END,
    "a mask": part("prompt", b"p") + part("image", png(), FILE) + part("mask", png(), FILE) + END,
    "two prompts": 2 * part("prompt", b"p") + part("image", png(), FILE) + END,
    "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
    "no disposition": b"--b\r\n\r\nx\r\n" + END,
    "many fields": b"".join(part(f"f{index}", b"x") for index in range(60)) + END,
    "strength is no number": part("prompt", b"p")
    + part("strength", b"nan")
    + part("image", png(), FILE)
    + END,
    "a long field": part("prompt", b"p" * 5000) + part("image", png(), FILE) + END,
}


@pytest.mark.parametrize("name", MULTIPART_BODIES)
def test_multipart_that_does_not_fit(running: Running, name: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = http.post(running.address + EDIT, content=MULTIPART_BODIES[name], headers=headers)
    assert answer.status_code == 400, answer.text
    error_of(answer)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; charset=klingon; boundary=b",
    ],
)
def test_multipart_types_that_cannot_be_read(running: Running, content_type: str) -> None:
    body = part("prompt", b"p") + part("image", b"hello", FILE) + END
    answer = http.post(running.address + EDIT, content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    error_of(answer)


def test_a_picture_that_unpacks_to_gigabytes_is_refused_by_its_header(running: Running) -> None:
    bomb = bytearray(png())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # IHDR says 60000 x 60000
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    answer = http.post(
        running.address + EDIT, data={"prompt": "p"}, files={"image": ("a.png", bytes(bomb))}
    )
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_image")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [DRAW, EDIT])
def test_a_body_above_the_limit_is_413(running: Running, path: str, chunked: bool) -> None:
    body = (
        b"x" * 2**21
        if path == DRAW
        else part("prompt", b"p") + part("image", b"x" * 2**21, FILE) + END
    )
    pieces = (
        (body[start : start + 65536] for start in range(0, len(body), 65536)) if chunked else body
    )
    headers = {
        "content-type": "application/json" if path == DRAW else "multipart/form-data; boundary=b"
    }
    answer = http.post(running.address + path, content=pieces, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    assert draws(running)


def test_ten_megabytes_are_taken_by_default() -> None:
    picture = Image.frombytes("RGB", (1900, 1900), os.urandom(1900 * 1900 * 3))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=0)
    assert file.tell() > 10_000_000
    with serving() as running:
        answer = http.post(
            running.address + EDIT,
            data={"prompt": "p"},
            files={"image": file.getvalue()},
        )
        assert answer.status_code == 200


def test_a_body_that_does_not_come_is_408() -> None:
    with serving(body_seconds=0.2) as running, connection(running) as line:
        line.sendall(
            b"POST "
            + DRAW.encode()
            + (
                b" HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
                b"99\r\n\r\n{"
            )
        )
        assert line.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("GET", DRAW, {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("POST", DRAW, {"content-type": "text/plain"}, 415),
        ("POST", EDIT, {"content-type": "application/json"}, 415),
        ("GET", "/pictures/guess", {}, 404),
        ("GET", "/page/..%2fserver.py", {}, 404),
        ("GET", "/page/server.py", {}, 404),
        ("POST", DRAW, {"origin": "https://elsewhere.example"}, 403),
        ("POST", EDIT, {"origin": "null"}, 403),
        ("GET", "/profile", {}, 404),
        ("POST", "/profile/start", {}, 404),
    ],
)
def test_refusals_have_openais_shape(
    running: Running, method: str, path: str, headers: dict, status: int
) -> None:
    answer = http.request(method, running.address + path, content=b"{}", headers=headers)
    assert answer.status_code == status
    error_of(answer)


def test_the_own_page_may_post(running: Running) -> None:
    answer = http.post(
        running.address + DRAW, json={"prompt": "p"}, headers={"origin": running.address}
    )
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


class connection:
    """A bare connection that reads nothing by itself."""

    def __init__(self, running: Running) -> None:
        host, port = running.address.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def ask(line: socket.socket, **body: object) -> None:
    content = json.dumps({"prompt": "p", **body}).encode()
    head = (
        f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
        f"{len(content)}\r\n\r\n"
    )
    line.sendall(head.encode() + content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_picture_and_no_other(stream: bool) -> None:
    with serving(step_seconds=0.1) as running, ThreadPoolExecutor(4) as pool:
        engine = running.engine
        staying = [pool.submit(draws, running) for _ in range(2)]
        for _ in range(30):
            with connection(running) as line:
                ask(line, stream=stream, steps=12, prompt=ENDLESS)
                wait_until(lambda: engine.status.running)
        wait_until(lambda: engine.status.cancelled == 30)
        assert all(answer.result() for answer in staying)
        wait_until(lambda: engine.status.running == 0)
        assert engine.status.queue_depth == 0
        # 16 of those who stayed; the others would have been 360
        assert engine.steps_drawn < 60
        wait_until(lambda: running.service.traffic.active == 0)
        assert "halftime_requests_cancelled_total 30.0" in running.metrics()


def taken(line: socket.socket) -> int:
    """Bytes until the other side ends, in whatever way."""
    got = 0
    with contextlib.suppress(ConnectionError):
        while data := line.recv(2**20):
            got += len(data)
    return got


def test_a_reader_that_does_not_read_is_let_go_and_blocks_nobody() -> None:
    with serving(send_seconds=0.5) as running, connection(running) as line:
        name = running.service.pictures.put(b"x" * 50_000_000, "image/png")
        line.sendall(f"GET /pictures/{name} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert draws(running)
        wait_until(lambda: "halftime_requests_cancelled_total 1.0" in running.metrics())
        assert taken(line) < 50_000_000
        assert draws(running)


def test_a_stream_that_waits_says_so() -> None:
    with serving(step_seconds=0.3, keep_alive_seconds=0.05) as running:
        answer = http.post(running.address + DRAW, json={"prompt": "p", "stream": True, "steps": 4})
        assert answer.text.count(": keep-alive") >= 3
        assert answer.text.startswith(": started")
        assert "image_generation.completed" in answer.text


def test_profiling_is_for_the_token_and_counts_pictures() -> None:
    with serving(profile_token="secret") as running:
        client = httpx2.Client(base_url=running.address, timeout=60)
        assert client.get("/profile", headers={"authorization": "Bearer secreT"}).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert client.post("/profile/start", json={"pictures": 17}).status_code == 400
        assert client.post("/profile/start", json={"pictures": 2}).json() == {
            "waiting": 2,
            "sessions": [],
        }
        client.post(DRAW, json={"prompt": "refuse"})
        for _ in range(3):
            client.post(DRAW, json={"prompt": "p"})
        assert [job.profile for job in running.engine.jobs] == [True, True, False]
        assert client.get("/profile").json() == {"waiting": 0, "sessions": [{"schema": 1}] * 2}
        assert client.post("/profile/stop").json()["sessions"] == [{"schema": 1}] * 2


def test_logs_hold_no_prompt(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for prompt in ("a secret wish", "broken"):
            http.post(running.address + DRAW, json={"prompt": prompt, "extra": "a secret wish"})
            http.post(running.address + DRAW, json={"prompt": prompt})
    assert f"POST {DRAW} 200" in caplog.text
    assert "secret wish" not in caplog.text


WISH = "a secret wish"


def test_a_fault_of_ours_is_500_and_its_log_tells_where_but_not_what(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def submit_all(self: RecordingEngine, jobs: object) -> None:
        raise RuntimeError(WISH)

    monkeypatch.setattr(RecordingEngine, "submit_all", submit_all)
    with serving() as running, caplog.at_level(logging.DEBUG):
        answer = http.post(running.address + DRAW, json={"prompt": WISH})
        assert b'http_response_status_code="500"' in http.get(running.address + "/metrics").content
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal")
    assert answer.headers["x-request-id"] in caplog.text
    assert "in submit_all" in caplog.text
    assert WISH not in caplog.text + answer.text


SERVER = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup would hand on that it is ignored
sys.path[:0] = {paths!r}
from serve_fake import RecordingEngine, WorkerScript
from halftime.base.listening import address_of, listening_socket
from halftime.verbs.serve.run import run
from halftime.verbs.serve.service import HttpSettings
listener = listening_socket("127.0.0.1", 0)
print(address_of(listener), flush=True)
settings = HttpSettings(model="fake", drain_seconds={drain})
sys.exit(run(RecordingEngine(WorkerScript(step_seconds=0.1)), settings, listener))
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    paths = [str(TESTS), str(TESTS.parent / "src")]
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(paths=paths, drain=request.param)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        wait_until(lambda: http.get(address + "/readyz").status_code == 200)
        yield child, address
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("process", [60], indirect=True)
def test_sigterm_finishes_what_runs_refuses_what_comes_and_exits_with_0(process: tuple) -> None:
    child, address = process
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(http.post, address + DRAW, json={"prompt": "p"})
        stream = pool.submit(http.post, address + DRAW, json={"prompt": "p", "stream": True})
        wait_until(
            lambda: b"http_server_active_requests 3.0" in http.get(address + "/metrics").content
        )
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: http.get(address + "/readyz").json()["state"] == "draining")
        refused = http.post(address + DRAW, json={"prompt": "p"})
        assert (refused.status_code, error_of(refused)["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert plain.result().status_code == 200
        assert "image_generation.completed" in stream.result().text
    assert child.wait(60) == 0


@pytest.mark.parametrize("process", [0.2], indirect=True)
def test_a_drain_that_runs_out_of_time_says_so_by_its_exit_code(process: tuple) -> None:
    child, address = process
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: ask_for_long(address, answers), daemon=True)
    thread.start()
    drawing = b"halftime_pictures_in_progress 1.0"
    wait_until(lambda: drawing in http.get(address + "/metrics").content)
    child.send_signal(signal.SIGHUP)  # a terminal that closes is no other end than SIGTERM
    assert child.wait(60) == 1
    thread.join(60)
    assert (answers[0].status_code, error_of(answers[0])["code"]) == (503, "draining")


def ask_for_long(address: str, answers: list[httpx2.Response]) -> None:
    answers.append(http.post(address + DRAW, json={"prompt": "p", "steps": 12}))
