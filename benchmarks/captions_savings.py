"""What a calibrated router saves on pictures held out from calibration, and whether its guarantee
holds.

Regime: benchmarks/data/captions_log.jsonl.gz, made by training/captioners.py: 12,000 pictures in
four kinds (whole, partly hidden, noisy, tiny), answered by two captioners; prices are CPU seconds,
measured per request on one core, the judge's too. The router's own price is measured here. Each
repetition draws half of the log to calibrate on (which splits it again into learning, calibration,
threshold and test) and counts the errors on the other half. Ceiling: the oracle, which knows which
small answers are acceptable.

    python benchmarks/captions_savings.py --repeats 100

prints what the bars ask (savings >= 38 % at alpha 2 %, guarantee in >= 95 of 100, better than
random mixing at equal cost, >= 80 % of the oracle's savings) and writes
benchmarks/results/captions_savings.json.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from evidence import write
from halftime.base.store import to_json
from halftime.pipeline.device import this_environment
from halftime.records.captions import CaptionsResult
from halftime.verbs.captions import features, price
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate, scores_of, values_of
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import Log, read_log
from halftime.verbs.captions.router import decide

HERE = Path(__file__).parent
LOG = HERE / "data" / "captions_log.jsonl.gz"


def some(log: Log, chosen: np.ndarray) -> Log:
    return Log(
        tuple(log.rows[i] for i in chosen), log.values[chosen], tuple(log.groups[i] for i in chosen)
    )


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


def held_out(log: Log, result: CaptionsResult) -> tuple[int, int, price.Prices, np.ndarray]:
    """Sent, errors, prices and the choice on requests that the calibration never saw."""
    router = result.router
    prices = price.prices_of(log, router.tolerance, 0.0, 0.0)
    scores = scores_of(router, values_of(router.mode, log)[0])
    small = (
        np.zeros(len(scores))
        if router.threshold is None
        else (scores >= router.threshold).astype(float)
    )
    return int(small.sum()), int((small * (1 - prices.acceptable)).sum()), prices, small


def repetition(log: Log, seed: int, settings: CalibrationSettings) -> dict[str, float | bool | str]:
    ours, others = split(log.groups, (0.5, 0.5), 1000 + seed)
    result = calibrate(some(log, ours), settings)
    rest = some(log, others)
    sent, errors, prices, small = held_out(rest, result)
    mode = result.mode if result.certified else None
    router = price.Prices(**{**vars(prices), "router_cost": settings.router_cost})
    policy = price.policy("ours", router, small, mode, resamples=0)
    oracle = price.policy("oracle", prices, prices.acceptable, None, resamples=0)
    mixed = price.policy("mixed", prices, price.mixed_at(prices, policy.cost), None, resamples=0)
    return {
        "certified": result.certified,
        "mode": result.mode,
        "small_share": policy.small_share,
        "error": errors / sent if sent else 0.0,
        "savings": policy.savings,
        "of_oracle": policy.savings / oracle.savings,
        "quality": policy.quality,
        "quality_mixed": mixed.quality,
    }


def main() -> None:
    place = this_environment()  # as it is before the work
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "captions_savings.json")
    options = parser.parse_args()
    log = read_log(options.log)
    decision = decision_seconds(calibrate(log, CalibrationSettings(mode="route")))
    out: dict[str, object] = {
        "requests": len(log.rows),
        "decision_cpu_seconds": decision,
        "alphas": {},
    }
    for alpha in (0.02, 0.05):
        settings = CalibrationSettings(alpha=alpha, router_cost=decision, router_seconds=decision)
        whole = calibrate(log, settings)
        rows = [repetition(log, seed, settings) for seed in range(options.repeats)]
        column = {
            name: np.asarray([row[name] for row in rows]) for name in rows[0] if name != "mode"
        }
        summary = {
            "one calibration on the whole log": json.loads(
                to_json(msgspec.structs.replace(whole, curve=(), mistakes=()))
            ),
            "repeats": options.repeats,
            "certified": int(column["certified"].sum()),
            "guarantee held": int((column["error"] <= alpha).sum()),
            "cascades": sum(row["mode"] == "cascade" for row in rows),
            "better than random mixing at equal cost": int(
                (column["quality"] > column["quality_mixed"]).sum()
            ),
            **{
                f"{name}, median and 5th to 95th percentile": [
                    float(np.quantile(column[name], q)) for q in (0.5, 0.05, 0.95)
                ]
                for name in ("savings", "of_oracle", "error", "small_share")
            },
        }
        out["alphas"][str(alpha)] = summary  # type: ignore[index]
        shown = {k: v for k, v in summary.items() if not k.startswith("one")}
        print(f"alpha {alpha:.0%}:", json.dumps(shown, indent=1))
    write(options.output, "captions_savings", out, place)
    print(json.dumps({"decision_cpu_seconds": decision, "output": str(options.output.name)}))


if __name__ == "__main__":
    main()
