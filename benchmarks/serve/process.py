"""A real `halftime serve` for the benchmarks: started, awaited, and ended with the block."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

HALFTIME_SERVE = ("halftime", "serve", "--quiet", "--port", "0")


@dataclass
class Server:
    """`process` is the HTTP side; the worker is its child."""

    address: str
    process: subprocess.Popen[str]
    ready_seconds: float = 0.0

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, body: dict, timeout: float = 60.0) -> tuple[int, dict]:
        """A drawing request: status and answer."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + "/v1/images/generations", data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def metric(self, line: str) -> float:
        """A value of /metrics by its name and labels; 0 where it is not there yet."""
        lines = self.get("/metrics")[1].decode().splitlines()
        values = dict(text.rsplit(" ", 1) for text in lines if not text.startswith("#"))
        return float(values.get(line, 0.0))

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def wait_ready(self, seconds: float = 180.0) -> float:
        """Seconds until ready."""
        begun = time.monotonic()
        while not self.ready():
            if time.monotonic() - begun > seconds or self.process.poll() is not None:
                raise RuntimeError(
                    f"not ready after {time.monotonic() - begun:.0f} s: {self.get('/readyz')}"
                )
            time.sleep(0.02)
        return time.monotonic() - begun

    def worker(self) -> int:
        """Process id of the worker: the child with the most memory, since it may have helpers."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return max(children, key=lambda child: child.memory_info().rss).pid

    def resident(self) -> dict[str, int]:
        """Bytes of both processes."""
        worker = psutil.Process(self.worker())
        return {
            "http": psutil.Process(self.process.pid).memory_info().rss,
            "worker": worker.memory_info().rss,
        }


@contextlib.contextmanager
def serving(
    *options: str, module: tuple[str, ...] = HALFTIME_SERVE, seconds: float = 180.0
) -> Iterator[Server]:
    """`halftime serve --port 0 OPTIONS`, ready within so many seconds."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", *module, *options]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        server = Server(process.stdout.readline().split()[3], process)
        server.wait_ready(seconds)
        server.ready_seconds = time.monotonic() - begun
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and after a while SIGKILL; the worker goes with its parent."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
