"""The rows of benchmarks.serve.faults where nothing dies: workers that fail, freeze or are two;
clients that are silent, endless, half gone, slow or impatient. All on one server with two workers
that have no model (benchmarks.serve.stand_in)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
from PIL import Image

from benchmarks.serve.process import Server, serving

STAND_IN = ("benchmarks.serve.stand_in",)
BODY = {"prompt": "a flat icon of a kite", "steps": 4, "seed": 1}
DRAW = "/v1/images/generations"


@dataclass
class TwoWorkers:
    """The server of all these rows, and the file that names the worker which fails."""

    server: Server
    fault_file: Path


@contextlib.contextmanager
def two_workers() -> Iterator[TwoWorkers]:
    """Ready, both of them."""
    with tempfile.TemporaryDirectory() as folder:
        fault_file = Path(folder, "fault")
        with serving(str(fault_file), module=STAND_IN) as server:
            wait(lambda: states(server) == ["ready", "ready"], 180)
            yield TwoWorkers(server, fault_file)


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until it is so."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise RuntimeError(f"the condition was not met within {seconds:g} s")
        time.sleep(0.02)
    return time.monotonic() - begun


def workers(server: Server) -> list[dict]:
    return json.loads(server.get("/readyz", timeout=60)[1])["workers"]


def states(server: Server) -> list[str]:
    return [worker["state"] for worker in workers(server)]


class Poll:
    """How often /readyz was not 200, from a thread, while something is done to the server."""

    def __init__(self, server: Server) -> None:
        self.server, self.polls, self.unready = server, 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.polls += 1
            self.unready += not self.server.ready()

    def __enter__(self) -> Poll:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def replaced(server: Server, begun: float) -> dict:
    """Seconds from `begun` until a worker was not ready, and until both were again, under a client
    that asks one picture after the other."""
    answers, ended = Counter(), threading.Event()
    client = threading.Thread(target=ask_on, args=(server, answers, ended))
    client.start()
    with Poll(server) as poll:
        wait(lambda: states(server) != ["ready", "ready"], 300)
        noticed = time.monotonic() - begun
        wait(lambda: states(server) == ["ready", "ready"], 600)
        again = time.monotonic() - begun
    ended.set()
    client.join()
    return {
        "noticed_after": noticed,
        "ready_again_after": again,
        "answers": dict(sorted(answers.items())),
        "polls": poll.polls,
        "unready_polls": poll.unready,
    }


def ask_on(server: Server, answers: Counter[str], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            answers[str(server.post(BODY, timeout=300)[0])] += 1
        except OSError:
            answers["none"] += 1


def failing(both: TwoWorkers) -> dict:
    """A sticky CUDA error: every call of one worker fails."""
    server = both.server
    both.fault_file.write_text(str(workers(server)[0]["pid"]))
    row = replaced(server, time.monotonic())
    alarms = json.loads(server.get("/readyz")[1])["alarms"]
    return {
        "what": "every call of one of two workers fails (a sticky error)",
        "bar": "it is tested and replaced, an alarm says so, the server stays ready",
        **row,
        "alarm": alarms[-1] if alarms else "",
        "reached": row["unready_polls"] == 0
        and row["answers"].get("500", 0) <= 3
        and server.metric("halftime_worker_failures_total") == 1,
    }


def frozen(both: TwoWorkers) -> dict:
    """SIGSTOP to one worker."""
    server = both.server
    begun = time.monotonic()
    os.kill(workers(server)[0]["pid"], signal.SIGSTOP)
    row = replaced(server, begun)
    return {
        "what": "one of two workers freezes (SIGSTOP)",
        "bar": "replaced within 20 s, none unanswered, the server stays ready",
        **row,
        "reached": row["unready_polls"] == 0
        and row["noticed_after"] < 20
        and set(row["answers"]) == {"200"},
    }


def killed(both: TwoWorkers) -> dict:
    """kill -9 of one of two workers under load."""
    server = both.server
    begun = time.monotonic()
    os.kill(workers(server)[0]["pid"], signal.SIGKILL)
    row = replaced(server, begun)
    return {
        "what": "kill -9 of one of two workers",
        "bar": "the server stays ready, none unanswered",
        **row,
        "reached": row["unready_polls"] == 0 and set(row["answers"]) == {"200"},
    }


def connection(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def silent(both: TwoWorkers) -> dict:
    """1,300 connections that say nothing."""
    server = both.server
    times = []
    with contextlib.ExitStack() as stack:
        for _ in range(1300):
            stack.enter_context(connection(server))
        for _ in range(20):
            begun = time.perf_counter()
            status = server.get("/healthz", timeout=60)[0]
            times.append(time.perf_counter() - begun)
    return {
        "what": "1,300 connections that say nothing",
        "bar": "/healthz answers, pictures are drawn",
        "healthz": status,
        "healthz_most": max(times),
        "reached": status == 200 and server.post(BODY)[0] == 200,
    }


def heads(both: TwoWorkers) -> dict:
    """31 heads of 16 MiB, eight at a time."""
    server = both.server
    before = server.resident()["http"]
    piece, answers = b"x" * 2**20, Counter()

    def one(_: int) -> str:
        with connection(server) as line:
            received = b""
            with contextlib.suppress(OSError):
                line.sendall(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\na: ")
                for _ in range(16):
                    line.sendall(piece)
            with contextlib.suppress(OSError):
                received = line.recv(4096)
            return received[9:12].decode() or "closed"

    with ThreadPoolExecutor(8) as pool:
        answers.update(pool.map(one, range(31)))
    after = server.resident()["http"]
    return {
        "what": "31 heads of 16 MiB without a key",
        "bar": "431 or closed; no more memory than a few MiB",
        "answers": dict(answers),
        "growth": after - before,
        "reached": set(answers) <= {"431", "closed"} and after - before < 32 * 2**20,
    }


def half_closed(both: TwoWorkers) -> dict:
    """Ten clients that close their sending side after the request."""
    server = both.server

    def one(_: int) -> str:
        content = json.dumps(BODY).encode()
        head = f"POST {DRAW} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        with connection(server) as line:
            line.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            line.shutdown(socket.SHUT_WR)
            received = b""
            while data := line.recv(2**16):
                received += data
        return "200" if b"HTTP/1.1 200 OK" in received and b"b64_json" in received else "none"

    with ThreadPoolExecutor(4) as pool:
        answers = Counter(pool.map(one, range(10)))
    return {
        "what": "10 clients that close their sending side and wait",
        "bar": "each gets its picture",
        "answers": dict(answers),
        "reached": answers == {"200": 10},
    }


def uploads(both: TwoWorkers) -> dict:
    """Five photos of 12 megapixels beside twenty uploads that do not come."""
    server = both.server
    file = io.BytesIO()
    Image.effect_noise((4000, 3000), 60).convert("RGB").save(file, "JPEG", quality=90)
    before = server.resident()["http"]
    peak, ended = [before], threading.Event()
    watcher = threading.Thread(target=watch, args=(server, peak, ended))
    watcher.start()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(connection(server))
            line.sendall(
                b"POST /v1/images/edits HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999999\r\n"
                b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
        with ThreadPoolExecutor(5) as pool:
            timings = list(pool.map(lambda _: edit(server, file.getvalue()), range(5)))
    ended.set()
    watcher.join()
    return {
        "what": "5 photos of 12 megapixels beside 20 uploads that do not come",
        "bar": "each is drawn; the process grows by less than 300 MiB; all its time is in stages",
        "resident_before": before,
        "resident_peak": max(peak),
        "upload_seconds": max(timing["upload_seconds"] for timing in timings),
        "rest_seconds": max(timing["rest_seconds"] for timing in timings),
        "reached": max(peak) - before < 300 * 2**20,
    }


def watch(server: Server, peak: list[int], ended: threading.Event) -> None:
    process = psutil.Process(server.process.pid)
    while not ended.wait(0.02):
        peak.append(process.memory_info().rss)


def edit(server: Server, image: bytes) -> dict:
    fields = {"prompt": BODY["prompt"], "steps": "4", "strength": "0.5"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = b"".join(parts) + head + image + b"\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    request = urllib.request.Request(server.address + "/v1/images/edits", body, headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.loads(answer.read())["usage"]["halftime"]


def impatient(both: TwoWorkers) -> dict:
    """The official client, with its two retries, at three times the capacity for one queue."""
    server = both.server
    begun = time.monotonic()
    for _ in range(4):
        server.post(BODY)
    rate = 3 * 2 * 4 / (time.monotonic() - begun)  # two workers
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", timeout=300)

    def one(index: int) -> str:
        time.sleep(index / rate)
        try:
            client.images.generate(model="fake", prompt="p", extra_body={"steps": 4})
        except openai.APIStatusError as error:
            return str(error.status_code)
        return "200"

    with ThreadPoolExecutor(48) as pool:
        answers = Counter(pool.map(one, range(48)))
    return {
        "what": "48 official clients at 3 times the capacity, with a queue of 16",
        "bar": "at least 40 drawn, the others told",
        "rate": rate,
        "answers": dict(answers),
        "reached": answers["200"] >= 40 and set(answers) <= {"200", "429", "504"},
    }


SOFT_ROWS: dict[str, Callable[[TwoWorkers], dict]] = {
    "silent": silent,
    "heads": heads,
    "half_closed": half_closed,
    "uploads": uploads,
    "impatient": impatient,
    "failing": failing,
    "frozen": frozen,
    "killed": killed,
}
