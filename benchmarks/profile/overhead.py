"""What profiling costs: a call by `halftime.profile` and by torch.profiler, against a plain one.

Regime: the bundled pipeline, 30 steps at its own size, on this machine; the three are called in
turn, in an order shuffled each round, so that drift hits all alike. Ceiling: a plain call (ratio
1).

Prints the ratio to a plain call (median of paired ratios, 95 % bootstrap interval) for each: of the
call itself, which is what distorts a measurement, in wall-clock and in CPU seconds (which other
work on the machine disturbs less); and of all that surrounds it (wrapping and garbage collection
here; starting the tracer and collecting its events there). Then the share of the wall clock that
the ledger leaves unexplained, and CPU seconds of `import halftime` and `halftime --help` in fresh
processes. The last line is the whole result as JSON.

    python -m benchmarks.profile.overhead [--rounds 20] [--steps 30]
        --out benchmarks/results/profile_overhead.json
"""

from __future__ import annotations

import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.ledger import ledger
from halftime.base.stats import median, paired_ratio
from halftime.pipeline.arguments import call_arguments
from halftime.records import Workload
from halftime.verbs.profile.call import quiet_progress_bars, timed_call
from halftime.verbs.profile.clock import HostClock, Mark


class Seconds(NamedTuple):
    """One round of one way."""

    wall: float  # of the pipeline's call
    cpu: float  # of the pipeline's call, all threads
    with_set_up: float  # wall clock of everything around it too


class CpuClock(HostClock):
    """The host's clock, which also keeps the process's CPU seconds at start and finish."""

    def start(self) -> Mark:
        self.cpu = -time.process_time()
        return super().start()

    def finish(self) -> Mark:
        mark = super().finish()
        self.cpu += time.process_time()
        return mark


def timed(call: Callable[[], tuple[float, float]]) -> Seconds:
    """Wall and CPU seconds as `call` returns them, and the wall clock around it."""
    gc.collect()
    begin = time.perf_counter()
    wall, cpu = call()
    return Seconds(wall, cpu, time.perf_counter() - begin)


def fresh_process_cpu(arguments: list[str], repeats: int = 15) -> float:
    """Median CPU seconds (user + system) of a fresh process."""
    seconds = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(seconds)


def ratios(seconds: dict[str, list[Seconds]], kind: str) -> dict[str, dict[str, float]]:
    """Each way's seconds over the plain call's, paired by round."""
    of_kind = {
        name: [float(getattr(call, kind)) for call in rounds] for name, rounds in seconds.items()
    }
    plain = of_kind.pop("plain")
    return {name: paired_ratio(values, plain)._asdict() for name, values in of_kind.items()}


def measure(rounds: int, steps: int) -> dict[str, object]:
    pipeline, workload, clock = bundled.load(), Workload(steps=steps), CpuClock()

    def plain() -> tuple[float, float]:
        arguments = call_arguments(pipeline, workload)
        begin = clock.start()
        pipeline(**arguments)
        return clock.finish().host - begin.host, clock.cpu

    def profiled() -> tuple[float, float]:
        return timed_call(pipeline, workload, clock).run.wall_seconds, clock.cpu

    def traced() -> tuple[float, float]:
        with torch_profile(activities=[ProfilerActivity.CPU]):
            return plain()

    ways = {"plain": plain, "halftime": profiled, "torch.profiler": traced}
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    order, shuffle = list(ways), random.Random(0)
    with quiet_progress_bars(pipeline):
        for call in ways.values():
            call()
        for index in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                seconds[name].append(timed(ways[name]))
            print(
                f"round {index + 1} of {rounds}: plain {seconds['plain'][-1].wall:.3f} s",
                file=sys.stderr,
            )
        runs = [timed_call(pipeline, workload, clock) for _ in range(5)]
    return {
        "rounds": rounds,
        "steps": steps,
        "plain_seconds": median([call.wall for call in seconds["plain"]]),
        "overhead": {kind: ratios(seconds, kind) for kind in Seconds._fields},
        "unexplained_share": ledger(runs)[-1].share,
        "import_cpu_seconds": fresh_process_cpu([sys.executable, "-c", "import halftime"]),
        "help_cpu_seconds": fresh_process_cpu([sys.executable, "-m", "halftime", "--help"]),
        "python_cpu_seconds": fresh_process_cpu([sys.executable, "-c", "pass"]),
        "trained": bundled.trained(),
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=20)
    frame.parser.add_argument("--steps", type=int, default=30)
    options = frame.parse()
    result = measure(options.rounds, options.steps)
    overhead = result["overhead"]
    assert isinstance(overhead, dict)
    for kind, ways in overhead.items():
        for name, interval in ways.items():
            bounds = f"[{interval['low']:.4f}, {interval['high']:.4f}]"
            print(
                f"{name:15} {interval['value']:.4f}x of a plain call {bounds} "
                f"({kind.replace('_', ' ')})"
            )
    print(
        f"unexplained     {100 * float(str(result['unexplained_share'])):.2f} % of the wall clock"
    )
    for name in ("python", "import", "help"):
        print(
            f"{name:15} {1000 * float(str(result[f'{name}_cpu_seconds'])):.0f} ms of CPU in a "
            "fresh process"
        )
    frame.write(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
