"""Reading a large trace: `halftime trace` against HolisticTraceAnalysis (HTA).

Regime: fresh processes in turns, on synthetic GPU traces of about 100 MB of JSON as torch.profiler
writes it: one with ranges alone, one with Python stacks, and that one with tokens that are not JSON
(a NaN in one event of a thousand, quotes that are not escaped). HTA parses a file and computes its
temporal breakdown and idle-time breakdown, halftime computes its whole Session; HTA does not read
the damaged file. Byte code is cached, as an installed package has it: each way runs once
unmeasured. Ceiling: reading the bytes and decoding the JSON with Python's own json module,
which stands beside them.

Prints CPU seconds of the process (median) and megabytes a second of each, the ratio HTA / halftime
(median of pairs with a 95 % bootstrap interval), and peak resident memory of each process. The last
line is the whole result as JSON.

    python -m benchmarks.trace.reading [--rounds 3] [--megabytes 100]
        --out benchmarks/results/trace_reading.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.frame import Frame
from benchmarks.fresh import fresh_process
from halftime.base.stats import median, paired_ratio

if TYPE_CHECKING:
    from trace_synthetic import Synthetic

TESTS = Path(__file__).parents[2] / "tests"
WAYS = {
    "halftime": "import sys, halftime\nhalftime.trace(sys.argv[1])",
    "HolisticTraceAnalysis": (
        "import sys, os\nfrom hta.trace_analysis import TraceAnalysis\n"
        "a = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir=os.path.dirname(sys.argv[1]))\n"
        "a.get_temporal_breakdown(visualize=False)\na.get_idle_time_breakdown(visualize=False)"
    ),
    "json.load": "import sys, json\njson.load(open(sys.argv[1]))",
}


# file -> the ways that can read it
FILES = {
    "ranges": tuple(WAYS),
    "stacks": tuple(WAYS),
    "bad tokens": ("halftime",),
}
DEPTH = 8  # Python frames around a kernel


def make_trace(path: Path, kind: str, megabytes: float) -> None:
    """A synthetic run repeated until the file is large enough."""
    sys.path.insert(0, str(TESTS))
    from trace_synthetic import Synthetic, diffusion

    def run(trace: Synthetic) -> Synthetic:
        if kind == "ranges":
            return diffusion(trace, steps=50, kernels=200)
        return stacked(trace)

    trace = Synthetic()
    size = len(run(Synthetic()).text())
    for _ in range(max(1, round(megabytes * 1e6 / size))):
        run(trace)
    text = trace.text()
    if kind == "bad tokens":
        pieces = text.split('"dur": 4.0')
        text = "".join(
            piece + ('"dur": NaN' if at % 1000 == 0 else '"dur": 4.0')
            for at, piece in enumerate(pieces[:-1])
        )
        text = (text + pieces[-1]).replace("module.py(7)", '<lambda "7">', 50)
    path.write_text(text)


def stacked(trace: Synthetic, steps: int = 20, kernels: int = 100) -> Synthetic:
    """A call with stacks: each kernel under frames of torch's modules, as with_stack records."""
    with trace.frame("diffusers/pipelines/flux/pipeline_flux.py(652): __call__"):
        for _ in range(steps):
            with trace.frame("nn.Module: FluxTransformer2DModel_0"):
                for index in range(kernels):
                    with ExitStack() as frames:
                        for depth in range(DEPTH):
                            name = f"torch/nn/modules/module.py({depth}): _call_impl"
                            frames.enter_context(trace.frame(name))
                        trace.launch(f"gemm_{index}", 40.0)
            with trace.frame("diffusers/schedulers/scheduling_flow.py(425): step"):
                trace.copy_to_host(4)
    return trace


def measured_file(kind: str, megabytes: float, rounds: int) -> dict[str, object]:
    """Seconds and peak memory of each way on one file."""
    ways = FILES[kind]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peak: dict[str, int] = dict.fromkeys(ways, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rank0.json"
        # in its own process: a child's peak memory counts what its parent held when it started
        maker = multiprocessing.get_context("spawn").Process(
            target=make_trace, args=(path, kind, megabytes)
        )
        maker.start()
        maker.join()
        size = path.stat().st_size
        for way in ways:
            fresh_process([sys.executable, "-c", WAYS[way], str(path)])
        for _ in range(rounds):
            for way in ways:
                cost = fresh_process([sys.executable, "-c", WAYS[way], str(path)])
                seconds[way].append(cost.cpu_seconds)
                peak[way] = max(peak[way], cost.peak_bytes)
    result: dict[str, object] = {
        "bytes": size,
        "seconds": {way: median(values) for way, values in seconds.items()},
        "peak_bytes": peak,
    }
    print(f"{kind}, {size / 1e6:.0f} MB")
    for way, values in seconds.items():
        rate = size / 1e6 / median(values)
        print(
            f"  {way:22} {median(values):8.2f} s   {rate:6.0f} MB/s   "
            f"{peak[way] / 2**20:8.0f} MiB peak"
        )
    if "HolisticTraceAnalysis" in ways:
        ratio = paired_ratio(seconds["HolisticTraceAnalysis"], seconds["halftime"])
        print(f"  HTA / halftime {ratio.value:.1f}x [{ratio.low:.1f}, {ratio.high:.1f}]")
        result["speedup_over_hta"] = ratio._asdict()
    return result


def measured_files(megabytes: float, rounds: int) -> dict[str, object]:
    """Of every kind of file, the first one's beside the others'."""
    files = {kind: measured_file(kind, megabytes, rounds) for kind in FILES}
    return {**files.pop("ranges"), "files": files}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=3)
    frame.parser.add_argument("--megabytes", type=float, default=100.0)
    options = frame.parse()
    with tempfile.TemporaryDirectory() as byte_code:
        os.environ["PYTHONPYCACHEPREFIX"] = byte_code
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        measured = measured_files(options.megabytes, options.rounds)
    frame.write(measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
