"""Two Ray Serve replicas, one of them killed (SIGKILL) under load: is an accepted request lost?

Regime: the bundled model, 10 steps, one thread a replica, four clients in a closed loop, everything
on one machine. The bar: every request that was accepted is answered with its picture, and the
killed replica comes back.

    pip install 'halftime[ray]'
    python -m benchmarks.serve.ray [--requests 60] --out benchmarks/results/serve_ray.json
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psutil
import ray
from ray import serve

from benchmarks.frame import Frame
from halftime.base.environment import load_average, processor_name, versions
from halftime.base.stats import median
from halftime.records.serve import EngineStatus
from halftime.verbs.serve.messages import EngineSettings
from halftime.verbs.serve.ray_serve import NAME, Cluster, application_of
from halftime.verbs.serve.service import HttpSettings

SETTINGS = EngineSettings(steps=(10,), max_batch=2, threads=1, img2img=False)


def drawers(handle: object) -> set[int]:
    """Process ids of the replicas that answer; Ray chooses one a call, so ask often."""
    workers = {
        msgspec.json.decode(handle.status.remote().result(), type=EngineStatus).worker_pid
        for _ in range(20)
    }
    return {
        psutil.Process(pid).ppid() for pid in workers if pid is not None and psutil.pid_exists(pid)
    }


def ask(address: str, number: int) -> tuple[str, float]:
    """One request: its status, and how long it took."""
    body = json.dumps({"prompt": "a flat icon of a kite", "seed": number}).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status = (
                str(answer.status) if json.loads(answer.read())["data"][0]["b64_json"] else "empty"
            )
    except urllib.error.HTTPError as error:
        status = (
            f"{error.code} {json.loads(error.read() or b'{}').get('error', {}).get('code', '')}"
        ).strip()
    except OSError as error:
        status = type(error).__name__
    return status, time.monotonic() - begun


def killed_under_load(address: str, handle: object, requests: int) -> dict:
    """The load, and in the middle of it the kill."""
    before, victims = drawers(handle), []
    answered = threading.Semaphore(0)

    def kill() -> None:
        for _ in range(requests // 3):
            answered.acquire()
        victim = min(before)
        victims.append(victim)
        psutil.Process(victim).send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()

    def one(number: int) -> tuple[str, float]:
        answer = ask(address, number)
        answered.release()
        return answer

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(requests)))
    killer.join()
    begun = time.monotonic()
    while len(drawers(handle) - set(victims)) < 2 and time.monotonic() - begun < 120:
        time.sleep(0.5)
    seconds = [took for _, took in answers]
    return {
        "replicas_before": len(before),
        "requests": requests,
        "answers": dict(Counter(status for status, _ in answers)),
        "median_seconds": median(seconds),
        "longest_seconds": max(seconds),
        "replicas_after": len(drawers(handle)),
        "killed_is_gone": not any(psutil.pid_exists(pid) for pid in victims),
    }


def free_port() -> int:
    """One that nobody listens on now; Ray takes no 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--requests", type=int, default=60)
    options = frame.parse()
    busy, port = load_average(), free_port()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        begun = time.monotonic()
        serve.run(
            application_of(Cluster(engine=SETTINGS, replicas=2), HttpSettings()),
            name=NAME,
            route_prefix="/",
        )
        ready = time.monotonic() - begun
        handle = serve.get_deployment_handle("Drawer", NAME)
        wait_until_ready(f"http://127.0.0.1:{port}/readyz")
        address = f"http://127.0.0.1:{port}/v1/images/generations"
        row = killed_under_load(address, handle, options.requests)
    finally:
        serve.shutdown()
        ray.shutdown()
    result = {
        "ray": ray.__version__,
        "versions": versions(),
        "processor": processor_name(),
        "load_average": busy,
        "both_replicas_ready_seconds": ready,
        **row,
    }
    frame.write(result)
    print(json.dumps(result, indent=1))


def wait_until_ready(address: str) -> None:
    """Until the front has seen a drawer's certificate."""
    for _ in range(100):
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("not ready in time")


if __name__ == "__main__":
    main()
