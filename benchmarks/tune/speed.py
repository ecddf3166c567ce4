"""How fast is each setting of approximate fixes, timed in turns with diffusers as it is?

Regime: the settings of `benchmarks.tune.draw` on the bundled model, 30 steps, one thread, one
picture a call; seven rounds of baseline and setting in turns, after warm-up, the median of the
ratios with its 95 % interval. In turns, so that what else runs on the machine cancels.

    python -m benchmarks.tune.speed --out benchmarks/results/tune_speed.json
"""

from __future__ import annotations

import msgspec
import torch

from benchmarks.frame import Frame
from benchmarks.tune.draw import BASELINE, SETTINGS, WORKLOAD
from halftime import bundled
from halftime.base.progress import silent
from halftime.base.stats import median, paired_ratio
from halftime.records.recipe import Choice
from halftime.verbs.tune.bench import Bench
from halftime.verbs.verify.render import prompt_set

ROUNDS = 7


def timed(bench: Bench, name: str, plan: tuple[Choice, ...]) -> dict[str, object]:
    """One setting in turns with the baseline."""
    trial = bench.confirm(plan, ROUNDS, silent)
    bench.keep_only(())
    ratio = paired_ratio(trial.baseline, trial.candidate)
    return {
        "setting": name,
        "baseline_seconds": median(trial.baseline),
        "seconds": median(trial.candidate),
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parse()
    torch.set_num_threads(1)
    rows: list[object] = list(frame.earlier().get("settings", []))  # type: ignore[call-overload]
    measured = {row["setting"] for row in rows}  # type: ignore[index]
    workload = msgspec.structs.replace(WORKLOAD, device="cpu")
    bench = Bench(bundled.load(), workload, prompt_set(workload, 40))
    for name, plan in SETTINGS.items():
        if name != BASELINE and name not in measured:
            rows.append(timed(bench, name, plan))
            frame.write({"rounds": ROUNDS, "settings": rows})


if __name__ == "__main__":
    main()
