"""How soon is a drift of the answers noticed, and how often is there an alarm without one?

Regime: simulated judgements of small answers, alpha 2 %; 1,000 answers at exactly 2 % before the
error changes; the delay counts judged answers (with `--shadow 0.01` a hundred times as many small
answers go by). Ceiling for false alarms: 1 in 100,000 answers, counted at exactly alpha, where they
are most frequent.

    python -m benchmarks.captions.drift --out benchmarks/results/captions_drift.json

Bars: three times alpha within 500 judged answers on average; at most one false alarm in 100,000.
"""

from __future__ import annotations

import numpy as np

from benchmarks.frame import Frame
from halftime.verbs.captions.drift import FALSE_ALARMS, error_detector

ALPHA, BEFORE = 0.02, 1000


def delay(error: float, rng: np.random.Generator) -> int:
    """Judged answers from the change to the alarm."""
    detector = error_detector(ALPHA)
    for failed in rng.random(BEFORE) < ALPHA:
        detector.add(bool(failed))
    count = 1
    while not detector.add(bool(rng.random() < error)):
        count += 1
    return count


def delays(error: float, repeats: int) -> dict[str, object]:
    counts = np.asarray([delay(error, np.random.default_rng(seed)) for seed in range(repeats)])
    return {
        "what": f"error {error:.0%} where {ALPHA:.0%} was certified",
        "repeats": repeats,
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "high": float(np.quantile(counts, 0.95)),
        "within_500": float((counts <= 500).mean()),
    }


def false_alarms(answers: int) -> dict[str, object]:
    rng, detector, alarms = np.random.default_rng(0), error_detector(ALPHA), 0
    for failed in rng.random(answers) < ALPHA:
        if detector.add(bool(failed)):
            alarms, detector = alarms + 1, error_detector(ALPHA)
    per_answer = alarms / answers
    return {
        "what": "no drift, error exactly alpha",
        "answers": answers,
        "alarms": alarms,
        "bar": FALSE_ALARMS,
        "reached": per_answer <= FALSE_ALARMS,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--repeats", type=int, default=400)
    frame.parser.add_argument("--answers", type=int, default=3_000_000)
    options = frame.parse()
    rows = [delays(error, options.repeats) for error in (0.04, 0.06, 0.16, 0.4)]
    tripled = rows[1]
    tripled |= {"bar": 500, "reached": float(str(tripled["mean"])) <= 500}
    rows.append(false_alarms(options.answers))
    frame.write({"alpha": ALPHA, "rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
