"""What `halftime serve` costs over a bare pipeline call.

Regime: pairs of one bare call and one request, shuffled, 30 steps, one thread each; and, exactly,
what the client waited less what the worker computed. The bare call runs in its own process, which
waits between calls as the worker does. Its past is measured beside it: a bare pipeline that has
drawn batches before is slower too. Ceiling: nothing added.

    python -m benchmarks.serve.overhead [--pairs 40] --out benchmarks/results/serve_overhead.json
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.frame import Frame
from benchmarks.serve.process import serving
from halftime import bundled
from halftime.base.stats import bootstrap, median

PROMPT = "a 3D render of a red apple on a white background"
BARE = """
import sys, time, torch
from halftime import bundled
torch.set_num_threads(1)
pipeline = bundled.load()
pipeline.set_progress_bar_config(disable=True)
for batch in map(int, sys.argv[1:]):
    pipeline(["warm up"] * batch, num_inference_steps=4, guidance_scale=bundled.GUIDANCE)
for prompt in sys.stdin:
    begun = time.perf_counter()
    pipeline(prompt.strip(), num_inference_steps=30, guidance_scale=bundled.GUIDANCE,
             generator=torch.Generator("cpu").manual_seed(1))
    print(time.perf_counter() - begun, flush=True)
"""


@contextlib.contextmanager
def bare_process(*batches: int) -> Iterator[Callable[[], float]]:
    """The call without a server, timed in a process that waits between calls as the worker does.

    It draws `batches` of these sizes once before, as the worker's warm-up does.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, *map(str, batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    asking, answering = process.stdin, process.stdout
    assert asking is not None
    assert answering is not None

    def call() -> float:
        asking.write(PROMPT + "\n")
        asking.flush()
        return float(answering.readline())

    try:
        yield call
    finally:
        process.kill()
        process.wait()


def overhead(pairs: int) -> dict:
    """Seconds of a request over a bare call with the same arguments."""
    body = {
        "prompt": PROMPT,
        "steps": 30,
        "guidance": bundled.GUIDANCE,
        "seed": 1,
        "output_format": "png",
    }
    with serving("--steps", "30", "--threads", "1") as server, bare_process() as bare:

        def through() -> tuple[float, float]:
            begun = time.perf_counter()
            status, answer = server.post(body)
            took = time.perf_counter() - begun
            assert status == 200
            return took, answer["usage"]["halftime"]["compute_seconds"]

        row = compared(bare, through, pairs)
    with bare_process() as bare, bare_process(1, 2, 4) as warm:
        batches = bootstrap([warm() - bare() for _ in range(pairs)])
    return row | {
        "batches_before_seconds": batches.value,
        "batches_low": batches.low,
        "batches_high": batches.high,
    }


def compared(bare, through, pairs: int) -> dict:
    rng = random.Random(0)
    for _ in range(3):
        bare()
        through()
    alone, served, computed = [], [], []
    for _ in range(pairs):
        for way in rng.sample(("bare", "served"), 2):
            if way == "bare":
                alone.append(bare())
            else:
                took, compute = through()
                served.append(took)
                computed.append(compute)
    added = bootstrap(list(np.subtract(served, alone)))
    exact = np.subtract(served, computed)
    return {
        "pairs": pairs,
        "bare_seconds": median(alone),
        "served_seconds": median(served),
        "added_seconds": added.value,
        "added_low": added.low,
        "added_high": added.high,
        "added_of_bare": added.value / median(alone),
        "outside_compute_p50": float(np.median(exact)),
        "outside_compute_p99": float(np.quantile(exact, 0.99)),
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--pairs", type=int, default=40)
    row = overhead(frame.parse().pairs)
    print(row)
    frame.write({"rows": [row]})


if __name__ == "__main__":
    main()
