"""`halftime serve --ray --replicas 2`: under load a worker is killed (SIGKILL), then a replica;
then comes SIGTERM. Is an accepted request lost, or drawn for nobody?

Regime: the bundled model, 10 steps, one thread a replica, four clients in a closed loop, everything
on one machine. The bars: every request is answered, with its picture while a replica lives; the
server counts as many pictures as were answered; no counter falls; the killed replica comes back; on
SIGTERM every request that was accepted gets its picture and the exit code is 0.

    pip install 'halftime[ray]'
    python -m benchmarks.serve.ray [--requests 60] --out benchmarks/results/serve_ray.json
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
import ray

from benchmarks.frame import Frame
from benchmarks.serve.process import Server, serving
from halftime.base.environment import load_average, processor_name, versions
from halftime.base.stats import median

OPTIONS = ("--ray", "--replicas", "2", "--steps", "10", "--max-batch", "2", "--deadline", "120s")
CLIENTS = 4
PROMPT = "a flat icon of a kite"
COUNTED = ("halftime_pictures_total", "halftime_worker_restarts_total", "halftime_alarms_total")


@dataclass
class Answers:
    """What the clients got."""

    statuses: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)  # of the pictures
    answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def ask(self, server: Server, number: int) -> str:
        """One request, and its status."""
        begun = time.monotonic()
        try:
            status, answer = server.post({"prompt": PROMPT, "seed": number}, timeout=180)
        except OSError as error:
            words = type(error).__name__
        else:
            code = answer.get("error", {}).get("code", "")
            words = f"{status} {code}".strip()
            self.seeds += [picture["seed"] for picture in answer.get("data", [])]
        self.statuses.append(words)
        self.seconds.append(time.monotonic() - begun)
        self.answered.release()
        return words

    @property
    def by_status(self) -> dict[str, int]:
        return dict(Counter(self.statuses))


def drawers(server: Server) -> set[int]:
    """Process ids of the replicas: the parents of the workers that /readyz names."""
    workers = json.loads(server.get("/readyz")[1])["workers"]
    pids = {worker["pid"] for worker in workers if worker["state"] == "ready"}
    return {psutil.Process(pid).ppid() for pid in pids if pid and psutil.pid_exists(pid)}


class Falling(threading.Thread):
    """Reads /metrics while the load runs, and notes each counter that falls."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.over, self.falls, self.looks = server, threading.Event(), 0, 0

    def run(self) -> None:
        before = dict.fromkeys(COUNTED, 0.0)
        while not self.over.wait(0.2):
            now = {name: self.server.metric(name) for name in COUNTED}
            self.falls += sum(now[name] < before[name] for name in COUNTED)
            self.looks += 1
            before = now


def workers(server: Server) -> set[int]:
    """Process ids of the workers that are ready."""
    workers = json.loads(server.get("/readyz")[1])["workers"]
    return {worker["pid"] for worker in workers if worker["state"] == "ready"}


def killed_under_load(
    server: Server, requests: int, processes: Callable[[Server], set[int]]
) -> dict:
    """The load, and after a third of it the kill of one of these processes."""
    before, answers, watch = processes(server), Answers(), Falling(server)
    victims: list[int] = []
    counted = server.metric("halftime_pictures_total")

    def kill() -> None:
        for _ in range(requests // 3):
            answers.answered.acquire()
        victims.append(min(before))
        psutil.Process(victims[0]).send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    watch.start()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: answers.ask(server, number), range(requests)))
    killer.join()
    begun = time.monotonic()
    while len(processes(server) - set(victims)) < 2 and time.monotonic() - begun < 180:
        time.sleep(0.5)
    back = time.monotonic() - begun
    watch.over.set()
    watch.join()
    drawn = server.metric("halftime_pictures_total") - counted
    return {
        "processes_before": len(before),
        "requests": requests,
        "answers": answers.by_status,
        "different_seeds": len(set(answers.seeds)),
        "pictures_counted": drawn,
        "counter_falls": watch.falls,
        "counter_looks": watch.looks,
        "median_seconds": median(answers.seconds),
        "longest_seconds": max(answers.seconds),
        "processes_after": len(processes(server)),
        "back_after_the_load_seconds": back,
        "killed_is_gone": not any(psutil.pid_exists(pid) for pid in victims),
        "reached": answers.by_status == {"200": requests}
        and sorted(answers.seeds) == list(range(requests))
        and drawn == requests
        and not watch.falls,
    }


def terminated_under_load(server: Server) -> dict:
    """SIGTERM after a few answers; whoever was accepted must get the picture."""
    answers, over = Answers(), threading.Event()

    def client(first: int) -> None:
        number = first
        while not over.is_set():
            if answers.ask(server, number) != "200":
                return  # told to go elsewhere, or nobody listens any more
            number += CLIENTS

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, first) for first in range(CLIENTS)]
        for _ in range(CLIENTS):
            answers.answered.acquire()
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(180)
        over.set()
        for future in clients:
            future.result()
    refused = {"503 draining", "URLError", "ConnectionRefusedError"}
    return {
        "answers": answers.by_status,
        "exit_code": code,
        "seconds": time.monotonic() - begun,
        "reached": code == 0 and set(answers.by_status) <= {"200"} | refused,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--requests", type=int, default=60)
    options = frame.parse()
    busy = load_average()
    with serving(*OPTIONS, seconds=400) as server:
        begun = time.monotonic()
        while len(drawers(server)) < 2:  # ready is the server with the first of them
            time.sleep(0.5)
        both = server.ready_seconds + time.monotonic() - begun
        worker_killed = killed_under_load(server, options.requests, workers)
        killed = killed_under_load(server, options.requests, drawers)
        terminated = terminated_under_load(server)
    result = {
        "ray": ray.__version__,
        "versions": versions(),
        "processor": processor_name(),
        "load_average": busy,
        "both_replicas_ready_seconds": both,
        "worker_killed": worker_killed,
        "killed": killed,
        "terminated": terminated,
    }
    frame.write(result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
