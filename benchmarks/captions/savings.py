"""What a calibrated router saves on pictures that it has not seen, and whether its guarantee holds.

Regime: benchmarks/captions/log.jsonl.gz, made by workshop/bundled/captioners.py: 12,000 pictures in
four kinds (whole, partly hidden, noisy, tiny), answered by two captioners; prices are CPU seconds,
measured per request on one core, the judge's too. The router's own price is measured here. Each
repetition draws half of the log to calibrate on (which splits it again) and counts the errors on
the other half. Ceiling: the oracle, which knows which
small answers are acceptable.

    python -m benchmarks.captions.savings --out benchmarks/results/captions_savings.json

Prints what the bars ask: savings >= 38 % at alpha 2 %, guarantee in >= 95 %, better than random
mixing at equal cost, >= 60 % of the oracle's savings (the aim is 80 %).
"""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from benchmarks.frame import Frame
from halftime.base.store import to_json
from halftime.records.captions import CaptionsResult
from halftime.verbs.captions import features, price
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate, values_of
from halftime.verbs.captions.choices import Sent, scores_of, sent, thresholds_of
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import Log, read_log
from halftime.verbs.captions.router import decide

LOG = Path(__file__).parent / "log.jsonl.gz"


def subset(log: Log, indices: np.ndarray) -> Log:
    rows, groups = (tuple(column[i] for i in indices) for column in (log.rows, log.groups))
    return Log(rows, log.values[indices], groups)


def decision_seconds(result: CaptionsResult) -> float:
    """CPU seconds of looking at a 256-px JPEG, as in the log, and deciding: the median of 300."""
    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 60).convert("RGB").save(buffer, "JPEG", quality=85)
    times = []
    for _ in range(300):
        begun = time.thread_time()
        decide(
            result.router,
            [*features.of_picture(buffer.getvalue()), *features.of_prompt("What is this?")],
        )
        times.append(time.thread_time() - begun)
    return float(np.median(times))


def held_out(log: Log, result: CaptionsResult) -> tuple[price.Prices, Sent]:
    """Prices and the choice on requests that the calibration never saw."""
    router = result.router
    prices = price.prices_of(log, router.tolerance, 0.0, 0.0)
    scores = scores_of(router, values_of(router.mode, log)[0])
    return prices, sent(scores, thresholds_of(router), router.mode == "cascade")


def repetition(log: Log, seed: int, settings: CalibrationSettings) -> dict[str, float | bool | str]:
    calibration, other_half = split(log.groups, (0.5, 0.5), 1000 + seed)
    result = calibrate(subset(log, calibration), settings)
    prices, choice = held_out(subset(log, other_half), result)
    router = replace(prices, router_cost=settings.router_cost)
    policy = price.policy(
        "ours", router, choice.small, choice.checked, routed=result.certified, resamples=0
    )
    oracle = price.policy("oracle", prices, prices.acceptable, resamples=0)
    mixed = price.policy("mixed", prices, price.mixed_at(prices, policy.cost), resamples=0)
    return {
        "certified": result.certified,
        "mode": result.mode,
        "small_share": policy.small_share,
        "error": policy.error or 0.0,
        "checked_share": float(choice.checked.mean()),
        "savings": policy.savings,
        "of_oracle": policy.savings / oracle.savings,
        "quality": policy.quality,
        "quality_mixed": mixed.quality,
    }


def summary(log: Log, settings: CalibrationSettings, repeats: int) -> dict[str, object]:
    """All repetitions at one alpha, beside one calibration on the whole log."""
    full = calibrate(log, settings)
    rows = [repetition(log, seed, settings) for seed in range(repeats)]
    column = {name: np.asarray([row[name] for row in rows]) for name in rows[0] if name != "mode"}
    better = int((column["quality"] > column["quality_mixed"]).sum())
    return {
        "one calibration on the whole log": json.loads(
            to_json(msgspec.structs.replace(full, curve=(), mistakes=()))
        ),
        "repeats": repeats,
        "certified": int(column["certified"].sum()),
        "guarantee held": int((column["error"] <= settings.alpha).sum()),
        "cascades": sum(row["mode"] == "cascade" for row in rows),
        "better than random mixing at equal cost": better,
        **{
            f"{name}, median and 5th to 95th percentile": [
                float(np.quantile(column[name], q)) for q in (0.5, 0.05, 0.95)
            ]
            for name in ("savings", "of_oracle", "error", "small_share", "checked_share")
        },
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--repeats", type=int, default=50)
    frame.parser.add_argument("--log", type=Path, default=LOG)
    options = frame.parse()
    log = read_log(options.log)
    decision = decision_seconds(calibrate(log, CalibrationSettings(mode="route")))
    alphas: dict[str, object] = {}
    for alpha in (0.02, 0.05):
        settings = CalibrationSettings(alpha=alpha, router_cost=decision, router_seconds=decision)
        row = summary(log, settings, options.repeats)
        alphas[str(alpha)] = row
        short = {name: value for name, value in row.items() if not name.startswith("one")}
        print(f"alpha {alpha:.0%}:", json.dumps(short, indent=1), flush=True)
        frame.write({"requests": len(log.rows), "decision_cpu_seconds": decision, "alphas": alphas})


if __name__ == "__main__":
    main()
