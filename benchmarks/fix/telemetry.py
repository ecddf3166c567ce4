"""What OpenVINO's telemetry costs the fix `openvino`: apply and a 2-step call, with and without it.

Regime: the bundled model on this CPU, `openvino` on the VAE, the denoiser and the text encoders, a
fresh process for each run, both cases in turns, the order exchanged. `on` is OpenVINO as it comes:
its telemetry is imported first; no packet leaves the machine (its proxy is a closed port), so a
slow network would cost more. `off` is halftime's own way (`base.extras.import_quietly`).
Ceiling: one.
Prints the seconds of both, the processes that each started, and the median of the paired ratios
with its 95 % interval.

    python -m benchmarks.fix.telemetry --out benchmarks/results/fix_telemetry.json
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time

import halftime
from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.stats import median, paired_ratio

CASES = ("on", "off")
CLOSED = "http://127.0.0.1:9"


def one_run(case: str) -> dict[str, float]:
    """In this process: seconds from the loaded pipeline to two steps drawn, and what they
    started."""
    if case == "on":
        importlib.import_module("openvino_telemetry")
    started = 0

    def count(event: str, _: tuple[object, ...]) -> None:
        nonlocal started
        started += event in ("os.fork", "os.posix_spawn", "subprocess.Popen")

    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)
    sys.addaudithook(count)
    start = time.perf_counter()
    with halftime.applied(pipeline, ["openvino"]):
        pipeline("a red apple", num_inference_steps=2, guidance_scale=bundled.GUIDANCE)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "processes": started}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--pairs", type=int, default=5)
    frame.parser.add_argument("--case", choices=CASES, help="one run in this process")
    options = frame.parse()
    if options.case:
        print(json.dumps(one_run(options.case)))
        return
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for pair in range(options.pairs):
        for case in CASES[:: 1 if pair % 2 else -1]:
            runs[case].append(_in_fresh_process(frame, case))
            print(case, runs[case][-1], flush=True)
    seconds = {case: [run["seconds"] for run in runs[case]] for case in CASES}
    frame.write(
        {
            "pairs": options.pairs,
            **{f"{case}_seconds": median(seconds[case]) for case in CASES},
            **{
                f"{case}_processes": median([run["processes"] for run in runs[case]])
                for case in CASES
            },
            "speedup": paired_ratio(seconds["on"], seconds["off"]),
        }
    )


def _in_fresh_process(frame: Frame, case: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:  # no consent of this machine's user
        variables = {name: value for name, value in os.environ.items() if name != "CI"}
        variables |= {"HOME": home, "https_proxy": CLOSED, "http_proxy": CLOSED}
        completed = subprocess.run(
            frame.itself("--case", case),
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
    run: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return run


if __name__ == "__main__":
    main()
