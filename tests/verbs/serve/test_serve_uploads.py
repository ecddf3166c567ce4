"""Uploads that come slowly, together, or broken hold up nobody; every second of a request is in
some stage."""

from __future__ import annotations

import contextlib
import io
import socket

import pytest
from PIL import Image

from serve_fake import http, serving, wait_until

EDIT = "/v1/images/edits"


def png(width: int = 48, height: int = 48) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "PNG")
    return file.getvalue()


PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def slow_upload(address: str, sent: bytes = b"") -> socket.socket:
    """A connection that has sent the head and a little of the body."""
    host, port = address.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {EDIT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"
    line.sendall(
        head.encode() + b"content-type: multipart/form-data; boundary=b\r\n\r\n" + PART + sent
    )
    return line


def test_twenty_slow_uploads_hold_up_nobody() -> None:
    with serving() as running, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(slow_upload(running.address))
        wait_until(lambda: running.service.traffic.active == 20)
        answer = http.post(
            running.address + EDIT, data={"prompt": "p"}, files={"image": png()}, timeout=20
        )
        assert answer.status_code == 200


def test_bodies_are_bounded_together() -> None:
    with serving(most_bodies=300_000) as running, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(slow_upload(running.address, b"x" * 140_000))
        wait_until(lambda: running.service.traffic.active == 2)
        draw = running.address + "/v1/images/generations"
        assert http.post(draw, json={"prompt": "p"}).status_code == 200
        answer = http.post(draw, json={"prompt": "p", "x": "x" * 100_000})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "too_many_bodies"
        stack.close()
        wait_until(lambda: running.service.traffic.active == 0)
        assert http.post(draw, json={"prompt": "p", "user": "u"}).status_code == 200


def test_the_engine_gets_a_picture_of_the_size_that_is_drawn() -> None:
    with serving() as running:
        for size, drawn_size in (("96x64", (96, 64)), ("100x70", (96, 64)), (None, (64, 64))):
            data = {"prompt": "p", "off_list": "snap"} | ({"size": size} if size else {})
            files = {"image": png(1500, 1000)}
            answer = http.post(running.address + EDIT, data=data, files=files)
            assert answer.status_code == 200
            image = running.engine.jobs[-1].image
            assert image is not None
            assert Image.open(io.BytesIO(image)).size == drawn_size


def test_a_broken_picture_costs_no_place_of_the_profiler() -> None:
    with serving() as running:
        running.service.profiler.start(2)
        answer = http.post(running.address + EDIT, data={"prompt": "p"}, files={"image": b"no"})
        assert answer.status_code == 400
        assert running.service.profiler.waiting == 2


@pytest.mark.parametrize("path", ["/v1/images/generations", EDIT])
def test_every_second_is_in_some_stage(path: str) -> None:
    with serving(step_seconds=0.01) as running:
        if path == EDIT:
            content = {"data": {"prompt": "p"}, "files": {"image": png(2000, 2000)}}
        else:
            content = {"json": {"prompt": "p", "n": 2}}
        answer = http.post(running.address + path, **content)  # type: ignore[arg-type]
        timing = answer.json()["usage"]["halftime"]
        parts = [timing[f"{name}_seconds"] for name in ("receive", "upload", "queue", "compute")]
        parts += [timing["encode_seconds"], timing["rest_seconds"]]
        assert sum(parts) == pytest.approx(timing["seconds"], abs=1e-6)
        assert (timing["upload_seconds"] > 0) == (path == EDIT)
        header = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        total = float(header.pop("total"))
        assert sum(map(float, header.values())) == pytest.approx(total, abs=0.1)
        assert 'stage="receive"' in running.metrics()
