"""Reading a large trace: `halftime trace` against HolisticTraceAnalysis (HTA).

Regime: fresh processes in turns, one synthetic GPU trace of about 100 MB of JSON, as torch.profiler
writes it; HTA parses it and computes its temporal breakdown and idle-time breakdown, halftime
computes its whole Session. Ceiling: reading the bytes and decoding the JSON with Python's own json
module, which stands beside them.

Prints wall seconds (median), the ratio HTA / halftime (median of pairs with a 95 % bootstrap
interval), and peak resident memory of each process. The last line is the whole result as JSON.

    python -m benchmarks.trace.reading [--rounds 3] [--megabytes 100]
        --out benchmarks/results/trace_reading.json
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from benchmarks.frame import Frame
from benchmarks.fresh import fresh_process
from halftime.base.stats import median, paired_ratio

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


def make_trace(path: Path, megabytes: float) -> None:
    """A synthetic run repeated until the file is large enough."""
    sys.path.insert(0, str(TESTS))
    from trace_synthetic import Synthetic, diffusion

    trace = Synthetic()
    size = len(json.dumps(diffusion(Synthetic(), steps=50, kernels=200).data(), indent=1))
    for _ in range(max(1, round(megabytes * 1e6 / size))):
        diffusion(trace, steps=50, kernels=200)
    trace.write(path)


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=3)
    frame.parser.add_argument("--megabytes", type=float, default=100.0)
    options = frame.parse()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peak: dict[str, int] = dict.fromkeys(WAYS, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rank0.json"
        # in its own process: a child's peak memory counts what its parent held when it started
        maker = multiprocessing.get_context("spawn").Process(
            target=make_trace, args=(path, options.megabytes)
        )
        maker.start()
        maker.join()
        size = path.stat().st_size
        for _ in range(options.rounds):
            for way, code in WAYS.items():
                cost = fresh_process([sys.executable, "-c", code, str(path)])
                seconds[way].append(cost.seconds)
                peak[way] = max(peak[way], cost.peak_bytes)
    ratio = paired_ratio(seconds["HolisticTraceAnalysis"], seconds["halftime"])
    measured = {
        "bytes": size,
        "seconds": {way: median(values) for way, values in seconds.items()},
        "peak_bytes": peak,
        "speedup_over_hta": ratio._asdict(),
    }
    for way, values in seconds.items():
        print(f"{way:22} {median(values):8.2f} s   {peak[way] / 2**20:8.0f} MiB peak")
    print(
        f"HTA / halftime {ratio.value:.1f}x [{ratio.low:.1f}, {ratio.high:.1f}] on "
        f"{size / 1e6:.0f} MB"
    )
    frame.write(measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
