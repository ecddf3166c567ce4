"""Faults inflicted on a real `halftime serve`: what was answered, how, and how soon it drew again.

Regime: the bundled model, one thread, 4 steps unless a row says otherwise, all on one machine. The
bar of each row stands beside it: no request without an answer, no 5xx for what a client did wrong,
ready again in seconds.

    python -m benchmarks.serve.faults [ROW ...] --out benchmarks/results/serve_faults.json

The rows are kill, leave, slow, large, malformed, schemathesis, sigterm and cold, and those of
benchmarks.serve.soft_faults; those that the file holds already are kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.frame import Frame
from benchmarks.serve.process import Server, serving
from benchmarks.serve.soft_faults import SOFT_ROWS, TwoWorkers, two_workers
from halftime.base.stats import median

DRAW = "/v1/images/generations"
EDIT = "/v1/images/edits"
OPTIONS = ("--steps", "4,30", "--threads", "1", "--queue", "64", "--deadline", "30s")
BODY = {"prompt": "a flat icon of a kite", "steps": 4, "seed": 1}


def kill(_: Server | None) -> dict:
    """kill -9 of the worker with four requests in flight, twenty times."""
    with serving(*OPTIONS[:-1], "120s") as server:
        return killed(server)


def killed(server: Server) -> dict:
    rng, answers, again, unanswered = random.Random(0), Counter(), [], 0
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            futures = [pool.submit(attempt, server, BODY | {"steps": 30}) for _ in range(4)]
            wait(lambda: server.metric("halftime_pictures_in_progress") > 0)
            time.sleep(rng.random() * 0.3)
            victim = server.worker()
            os.kill(victim, signal.SIGKILL)
            begun = time.monotonic()
            wait(lambda victim=victim: server.worker() != victim and server.ready(), 120)
            again.append(time.monotonic() - begun)
            for future in futures:
                status = future.result()
                answers[str(status)] += 1
                unanswered += status == 0
    return {
        "what": "kill -9 of the worker in mid-request, 20 times, 4 in flight",
        "bar": "none unanswered; 200 or a retryable 503; ready again in seconds",
        "requests": 80,
        "answers": dict(answers),
        "unanswered": unanswered,
        "ready_again_p50": median(again),
        "ready_again_max": max(again),
        "reached": unanswered == 0 and set(answers) <= {"200", "503"} and draws(server),
    }


def attempt(server: Server, body: dict) -> int:
    """The status, or 0 for no answer."""
    try:
        return server.post(body)[0]
    except OSError:
        return 0


def draws(server: Server) -> bool:
    return attempt(server, BODY) == 200


def wait(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # between two workers there is no process to ask
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            if condition():
                return
        time.sleep(0.005)
    raise RuntimeError(f"the condition was not met within {seconds:g} s")


def leave(server: Server) -> dict:
    """500 clients that ask for a picture, half of them for a stream, and leave within 0.25 s."""
    rng, before = random.Random(0), server.resident()
    files = psutil.Process(server.process.pid).num_fds()
    answers_before = by_status(server)

    def one(index: int) -> None:
        with connection(server) as line:
            ask(line, BODY | {"steps": 30, "stream": index % 2 == 0})
            time.sleep(rng.random() * 0.25)

    begun = time.monotonic()
    with ThreadPoolExecutor(25) as pool:
        list(pool.map(one, range(500)))
    left = time.monotonic()
    wait(lambda: idle(server))
    free = time.monotonic() - left
    fine = draws(server)
    wait(lambda: psutil.Process(server.process.pid).num_fds() <= files + 5)
    after = server.resident()
    answers = {
        status: count - answers_before.get(status, 0) for status, count in by_status(server).items()
    }
    return {
        "what": "500 clients that ask and leave",
        "bar": "nothing goes on for them, the next picture is drawn",
        "seconds": left - begun,
        "idle_after": free,
        "answers": {status: count for status, count in answers.items() if count},
        "growth": {name: after[name] - before[name] for name in after},
        "reached": fine,
    }


def by_status(server: Server) -> dict[str, int]:
    """How the server's drawing requests ended, 499 for those whose client left."""
    counts = re.findall(
        r'^http_server_request_duration_seconds_count\{.*code="(\d+)",.*generations"\} (\S+)$',
        server.get("/metrics")[1].decode(),
        re.MULTILINE,
    )
    return {status: int(float(count)) for status, count in counts}


def idle(server: Server) -> bool:
    return (
        server.metric("halftime_pictures_in_progress") == 0
        and server.metric("halftime_queue_depth") == 0
    )


def connection(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ask(line: socket.socket, body: dict) -> None:
    content = json.dumps(body).encode()
    head = (
        f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
        f"{len(content)}\r\n\r\n"
    )
    line.sendall(head.encode() + content)


def slow(server: Server) -> dict:
    """Others' latency while 25 clients hold streams that they do not read, against the same without
    them."""
    alone, beside = [], []
    for _ in range(4):  # in turns, since the machine drifts
        alone += [timed(server) for _ in range(8)]
        lines = [connection(server) for _ in range(25)]
        try:
            for line in lines:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                ask(line, BODY | {"stream": True, "partial_images": 3})
            wait(lambda: idle(server), 60)
            beside += [timed(server) for _ in range(8)]
        finally:
            for line in lines:
                line.close()
    return {
        "what": "25 readers that do not read their streams",
        "bar": "others draw as fast as without them (1.1x)",
        "alone_p50": median(alone),
        "beside_p50": median(beside),
        "ratio": median(beside) / median(alone),
        "reached": median(beside) <= 1.1 * median(alone),
    }


def timed(server: Server) -> float:
    begun = time.perf_counter()
    assert server.post(BODY)[0] == 200
    return time.perf_counter() - begun


def large(server: Server) -> dict:
    """Bodies of 10 MB (a PNG of noise to start from), eight at a time; and one above the limit."""
    file = io.BytesIO()
    Image.frombytes("RGB", (1850, 1850), os.urandom(1850 * 1850 * 3)).save(
        file, "PNG", compress_level=0
    )
    before = server.resident()
    peak, ended = [before["http"]], threading.Event()
    watcher = threading.Thread(target=watch, args=(server, peak, ended))
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(lambda _: edit(server, form(file.getvalue())), range(24)))
    ended.set()
    watcher.join()
    above = edit(server, form(os.urandom(20_000_000)))
    return {
        "what": "24 bodies of 10 MB, 8 at a time; one of 20 MB",
        "bar": "200 or 400 where edits are not offered; 413",
        "bytes": len(form(file.getvalue())),
        "answers": {str(key): value for key, value in statuses.items()},
        "above_the_limit": above,
        "resident_before": before["http"],
        "resident_peak": max(peak),
        "reached": set(statuses) <= {200} and above == 413 and draws(server),
    }


def watch(server: Server, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.05):
        peak.append(psutil.Process(server.process.pid).memory_info().rss)


def form(image: bytes) -> bytes:
    fields = {"prompt": "a flat icon of a kite", "steps": "4", "strength": "0.5"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    head = (
        b'--b\r\nContent-Disposition: form-data; name="image"; '
        b'filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return b"".join(parts) + head + image + b"\r\n--b--\r\n"


def edit(server: Server, body: bytes) -> int:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    request = urllib.request.Request(server.address + EDIT, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        details = json.loads(error.read())["error"]
        # 999: not in OpenAI's shape
        return error.code if set(details) == {"message", "type", "param", "code"} else 999


def malformed(server: Server) -> dict:
    """A valid multipart body with bytes cut, doubled, swapped or changed: 1,000 ways."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG")
    valid, rng = form(file.getvalue()), random.Random(0)
    statuses = Counter(edit(server, mutated(valid, rng)) for _ in range(1000))
    return {
        "what": "1,000 malformed multipart bodies",
        "bar": "no 5xx, each an error in OpenAI's shape or a picture",
        "answers": {str(key): value for key, value in sorted(statuses.items())},
        "reached": max(statuses) < 500 and draws(server),
    }


def mutated(body: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(body)), rng.randint(1, 40)
        piece = body[at : at + length]
        body = (
            body[:at]
            + rng.choice((b"", piece * 2, piece[::-1], rng.randbytes(length)))
            + body[at + length :]
        )
    return body


TOKEN = "a-token-for-this-run"
SCHEMATHESIS = (
    "--max-examples 60 --request-timeout 60 --exclude-checks positive_data_acceptance --seed 1 "
    "--no-color "
    "--phases examples,coverage,fuzzing --continue-on-failure"
)


def schemathesis(_: Server | None) -> dict:
    """Its command line over the served document, all checks that the schema can decide; with
    /profile turned on."""
    os.environ["HALFTIME_PROFILE_TOKEN"] = TOKEN
    try:
        with serving(*OPTIONS) as server:
            return searched(server)
    finally:
        del os.environ["HALFTIME_PROFILE_TOKEN"]


def searched(server: Server) -> dict:
    program = str(Path(sys.executable).parent / "schemathesis")
    command = [
        program,
        "run",
        f"{server.address}/openapi.json",
        *SCHEMATHESIS.split(),
        "-H",
        f"Authorization: Bearer {TOKEN}",
    ]
    with tempfile.TemporaryDirectory() as folder:  # it keeps examples where it runs
        completed = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, timeout=1200, check=False
        )
    cases = re.search(r"(\d+) generated", completed.stdout)
    text = completed.stdout[-1500:]
    return {
        "what": "schemathesis over the OpenAPI document",
        "bar": "no failure: no 5xx, no hang, answers as documented",
        "cases": int(cases[1]) if cases else None,
        "exit_code": completed.returncode,
        "said": "" if completed.returncode == 0 else text,
        "reached": completed.returncode == 0 and draws(server),
    }


def sigterm(_: Server | None) -> dict:
    """SIGTERM while eight clients ask one after another: what was accepted is answered, what comes
    is refused."""
    answers: Counter[str] = Counter()
    with serving(*OPTIONS) as server:
        ended = threading.Event()
        clients = [threading.Thread(target=ask_on, args=(server, answers, ended)) for _ in range(8)]
        for client in clients:
            client.start()
        wait(lambda: answers["200"] >= 8)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        took = time.monotonic() - begun
        ended.set()
        for client in clients:
            client.join()
    return {
        "what": "SIGTERM under load, 8 clients",
        "bar": "all accepted ones answered, 503 for newcomers, exit code 0",
        "answers": dict(sorted(answers.items())),
        "exit_code": code,
        "seconds": took,
        "reached": code == 0 and answers["cut"] == 0 and answers["503"] > 0,
    }


def ask_on(server: Server, answers: Counter[str], ended: threading.Event) -> None:
    """One request after the other until nobody listens: 'closed', which is also what the kernel
    resets as the socket closes, after the server has said 503. 'cut' is any other connection that
    ended without an answer."""
    draining = False
    while not ended.is_set():
        try:
            status = server.post(BODY | {"steps": 30})[0]
            answers[str(status)] += 1
            draining = status == 503
            time.sleep(0.05 if draining else 0)
        except OSError as error:
            reason = getattr(error, "reason", error)
            closing = ConnectionResetError if draining else ConnectionRefusedError
            nobody_listens = isinstance(reason, ConnectionRefusedError | closing)
            answers["closed" if nobody_listens else "cut"] += 1
            return


def cold(_: Server | None) -> dict:
    """Process start to ready, three times."""
    times = []
    for _ in range(3):
        with serving(*OPTIONS) as server:
            times.append(server.ready_seconds)
            certificate = json.loads(server.get("/readyz")[1])["certificate"]
    return {
        "what": "process start to ready, 3 times",
        "bar": "measured and shown in /readyz",
        "seconds": times,
        "certificate_says": certificate["cold_start"],
        "kinds_of_call": len(certificate["entries"]),
        "reached": certificate["cold_start"]["ready_seconds"] > 0,
    }


ROWS: dict[str, Callable] = {
    "leave": leave,
    "slow": slow,
    "large": large,
    "malformed": malformed,
    "schemathesis": schemathesis,
    "kill": kill,
    "sigterm": sigterm,
    "cold": cold,
}
ALONE = {"schemathesis", "kill", "sigterm", "cold"}  # these start their own servers


def main() -> None:
    frame = Frame(__file__, __doc__)
    every = [*ROWS, *SOFT_ROWS]
    frame.parser.add_argument("rows", nargs="*", choices=[[], *every], default=[])
    names = frame.parse().rows or every
    rows = {row["row"]: row for row in frame.earlier().get("rows", [])}

    def measure(name: str, server: Server | TwoWorkers | None) -> None:
        rows[name] = {"row": name, **{**ROWS, **SOFT_ROWS}[name](server)}
        print(json.dumps(rows[name]), flush=True)
        # at once, so that an interruption loses nothing
        frame.write({"rows": [rows[name] for name in every if name in rows]})

    if soft := [name for name in names if name in SOFT_ROWS]:
        with two_workers() as both:
            for name in soft:
                measure(name, both)
    if shared := [name for name in names if name not in {*ALONE, *SOFT_ROWS}]:
        with serving(*OPTIONS) as server:
            for name in shared:
                measure(name, server)
    for name in names:
        if name in ALONE:
            measure(name, None)


if __name__ == "__main__":
    main()
