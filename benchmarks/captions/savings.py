"""What a calibrated router saves on pictures that it has not seen, and whether its guarantee holds.

Regime: benchmarks/captions/log.jsonl.gz, made by workshop/bundled/captioners.py: 12,000 pictures in
four kinds (whole, partly hidden, noisy, tiny), answered by two captioners; prices are CPU seconds,
measured per request on one core, the judge's too. The router's own price is measured here. Each
repetition draws half of the log to calibrate on (which splits it again) and counts the errors on
the other half. Ceiling: the oracle, which knows which small answers are acceptable; and what the
same probabilities would save with thresholds set in hindsight, at an error of just alpha on that
other half, which no certificate can promise.

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
from PIL import Image, ImageFilter

from benchmarks.frame import Frame
from halftime.base.store import to_json
from halftime.records.captions import CaptionsResult
from halftime.verbs.captions import choices, features, price
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate, values_of
from halftime.verbs.captions.choices import Sent, scores_of, sent, thresholds_of
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import Log, read_log
from halftime.verbs.captions.router import decide

MEDIANS = (
    *("savings", "of_oracle", "of_oracle_in_hindsight"),
    *("error", "small_share", "checked_share"),
)
LOG = Path(__file__).parent / "log.jsonl.gz"


def subset(log: Log, indices: np.ndarray) -> Log:
    rows, groups = (tuple(column[i] for i in indices) for column in (log.rows, log.groups))
    return Log(rows, log.values[indices], groups)


def decision_seconds(log: Log, result: CaptionsResult) -> float:
    """CPU seconds of looking at a 256-px JPEG and deciding: the mean over pictures of as many bytes
    as the log's have, which is what decoding one takes time by; medians of 100 looks at each."""
    number = list(features.NAMES).index("bytes a pixel")
    sizes = np.quantile(log.values[:, number], np.arange(0.05, 1.0, 0.1)) * 256**2
    drawn = [picture(radius) for radius in (0, 0.5, 1, 1.5, 2, 3, 4, 6, 10, 20, 60)]
    pictures = [min(drawn, key=lambda data: abs(len(data) - size)) for size in sizes]
    return float(np.mean([look_seconds(data, log, result) for data in pictures]))


def picture(radius: float) -> bytes:
    """A JPEG, shorter with a larger radius."""
    buffer = io.BytesIO()
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    noise.filter(ImageFilter.GaussianBlur(radius)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def look_seconds(data: bytes, log: Log, result: CaptionsResult) -> float:
    """The decision itself is about a request of the log: one unlike it would be decided at once."""
    times = []
    for values in log.values[:100]:
        begun = time.thread_time()
        features.of_picture(data)
        features.of_prompt("What is this?")
        decide(result.router, values.tolist())
        times.append(time.thread_time() - begun)
    return float(np.median(times))


def in_hindsight(log: Log, result: CaptionsResult, settings: CalibrationSettings) -> float:
    """The most that this router's probabilities could save here with an error of alpha."""
    router, cascade = result.router, result.mode == "cascade"
    prices = price.prices_of(log, router.tolerance, settings.router_cost, 0.0)
    scores = scores_of(router, values_of(router.mode, log)[0])
    savings = [0.0]
    for thresholds in choices.path(scores, prices, settings.alpha):
        choice = sent(scores, thresholds, cascade)
        policy = price.policy("", prices, choice.small, choice.checked, routed=True, resamples=0)
        if (policy.error or 0.0) <= settings.alpha:
            savings.append(policy.savings)
    return max(savings)


def held_out(log: Log, result: CaptionsResult) -> tuple[price.Prices, Sent]:
    """Prices and the choice on requests that the calibration never saw."""
    router = result.router
    prices = price.prices_of(log, router.tolerance, 0.0, 0.0)
    scores = scores_of(router, values_of(router.mode, log)[0])
    return prices, sent(scores, thresholds_of(router), router.mode == "cascade")


def repetition(log: Log, seed: int, settings: CalibrationSettings) -> dict[str, float | bool | str]:
    calibration, other_half = split(log.groups, (0.5, 0.5), 1000 + seed)
    result = calibrate(subset(log, calibration), settings)
    unseen = subset(log, other_half)
    prices, choice = held_out(unseen, result)
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
        "of_oracle_in_hindsight": in_hindsight(unseen, result, settings) / oracle.savings,
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
            for name in MEDIANS
        },
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--repeats", type=int, default=50)
    frame.parser.add_argument("--log", type=Path, default=LOG)
    options = frame.parse()
    log = read_log(options.log)
    decision = decision_seconds(log, calibrate(log, CalibrationSettings()))
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
