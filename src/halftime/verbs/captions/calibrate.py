"""From a log to a certified router: learn, choose a mode, certify a threshold, and report.

The report is on requests that were used for nothing before.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from halftime.base.errors import BadInput
from halftime.base.version import version
from halftime.records.captions import CaptionsResult, Mistake, Mode, Policy, Router, Slice, Step
from halftime.verbs.captions import certify, features, price
from halftime.verbs.captions.features import Array, Indices
from halftime.verbs.captions.learn import learned, one_of_each, split
from halftime.verbs.captions.log import Log, picture_of
from halftime.verbs.captions.router import probabilities, strangeness

SHARES = (0.35, 0.20, 0.25, 0.20)
SPLITS = ("learning", "calibration", "threshold", "test")
_UNITS = {
    "tolerance": "the units of the log's quality",
    "router_cost": "the log's currency",
    "router_seconds": "seconds",
}
FEWEST = 40  # requests; with fewer no split holds anything


@dataclass(frozen=True)
class CalibrationSettings:
    """At most a share `alpha` of small answers unacceptable, except with chance `delta`.

    An answer is acceptable where its quality is at most `tolerance` below the large model's.
    `router_cost` and `router_seconds` are what one decision costs.
    """

    alpha: float = 0.02
    delta: float = 0.05
    tolerance: float = 0.0
    mode: Literal["auto", "route", "cascade"] = "auto"
    router_cost: float = 0.0
    router_seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(
                    f"{name} is {getattr(self, name)}; it must lie between 0 and 1, for "
                    "example 0.02."
                )
        for name, units in _UNITS.items():
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(
                    f"{name} is {getattr(self, name)}; it must be 0 or more, in {units}."
                )
        if self.seed < 0:
            raise BadInput(
                f"seed is {self.seed}; it must be 0 or a larger whole number, for example 1."
            )


class _Candidate(NamedTuple):
    """One mode, learned; the thresholds to test; what it promises on the calibration split."""

    router: Router
    values: Array
    thresholds: list[float]
    promise: Policy


def calibrate(log: Log, settings: CalibrationSettings) -> CaptionsResult:
    """The whole calibration.

    Raises BadInput for a log that is too small to split, costs nothing, or has no checks for a
    cascade.
    """
    if len(log.rows) < FEWEST:
        raise BadInput(
            f"the log has {len(log.rows)} usable requests; at least {FEWEST} are needed, and "
            "better 2,000."
        )
    if not sum(row.large.cost for row in log.rows) > 0:
        raise BadInput(
            "the large model's answers cost nothing in this log, so that nothing can be saved; a "
            "'cost' must be above 0. `halftime captions collect` writes it from --small-price, "
            "--large-price and the like."
        )
    parts = split(log.groups, SHARES, settings.seed)
    prices = price.prices_of(log, settings.tolerance, settings.router_cost, settings.router_seconds)
    candidates = [_candidate(mode, log, prices, parts, settings) for mode in _modes(log, settings)]
    best = max(candidates, key=lambda candidate: candidate.promise.savings)
    proof = one_of_each(parts[2], log.groups, settings.seed)
    steps = certify.certified(
        best.thresholds,
        scores_of(best.router, best.values[proof]),
        prices.acceptable[proof],
        alpha=settings.alpha,
        delta=settings.delta,
    )
    router = _finished(best, steps)
    sizes = {name: len(part) for name, part in zip(SPLITS, parts, strict=True)} | {
        "threshold": len(proof)
    }
    return _result(log, prices, router, best.values, parts[3], steps, settings, sizes, candidates)


def _modes(log: Log, settings: CalibrationSettings) -> list[Mode]:
    checked = all(row.check is not None for row in log.rows)
    if settings.mode == "cascade" and not checked:
        raise BadInput(
            "a cascade needs a 'check' (the judge's score of the small answer) in every line of "
            "the log."
        )
    if settings.mode == "auto":
        return ["route", "cascade"] if checked else ["route"]
    return [settings.mode]


def _candidate(
    mode: Mode, log: Log, prices: price.Prices, parts: list[Indices], settings: CalibrationSettings
) -> _Candidate:
    values, names = values_of(mode, log)
    learning, calibration = parts[0], parts[1]
    fitted = learned(
        values[learning],
        prices.acceptable[learning],
        values[calibration],
        prices.acceptable[calibration],
    )
    router = Router(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mode=mode,
        features=names,
        **fitted._asdict(),
        threshold=None,
        alpha=settings.alpha,
        delta=settings.delta,
        tolerance=settings.tolerance,
    )
    scores = scores_of(router, values[calibration])
    accepted = prices.acceptable[calibration]
    thresholds = certify.sequence(
        scores, accepted, alpha=settings.alpha, delta=settings.delta, fresh=len(parts[2])
    )
    # the loosest threshold that is within alpha here: what the mode may hope for
    fitting = [t for t in thresholds if (1 - accepted[scores >= t]).mean() <= settings.alpha]
    small = _sent(scores, fitting[-1] if fitting else None)
    promise = price.policy(mode, prices.of(calibration), small, mode, resamples=0)
    return _Candidate(router, values, thresholds, promise)


def values_of(mode: Mode, log: Log) -> tuple[Array, tuple[str, ...]]:
    """Requests x features as a mode sees them, and their names."""
    width, names = log.values.shape[1], features.NAMES
    if width != len(names):
        names = tuple(f"feature {i + 1}" for i in range(width))
    if mode == "route":
        return log.values, names
    scores = np.asarray([[row.check.score if row.check else 0.0] for row in log.rows])
    return np.hstack([log.values, scores]), (*names, "check")


def scores_of(router: Router, values: Array) -> Array:
    """Probabilities as the live router uses them: nothing strange is ever sent."""
    return np.where(strangeness(router, values) > router.limit, -1.0, probabilities(router, values))


def _finished(best: _Candidate, steps: list[Step]) -> Router:
    threshold = certify.threshold_of(steps)
    share = float(_sent(scores_of(best.router, best.values), threshold).mean())
    return msgspec.structs.replace(best.router, threshold=threshold, small_share=share)


def _result(
    log: Log,
    prices: price.Prices,
    router: Router,
    values: Array,
    test: Indices,
    steps: list[Step],
    settings: CalibrationSettings,
    sizes: dict[str, int],
    candidates: list[_Candidate],
) -> CaptionsResult:
    scores, tested = scores_of(router, values[test]), prices.of(test)
    small = _sent(scores, router.threshold)
    # Without a certificate nothing is looked at, so nothing is paid for looking.
    paid_as = router.mode if router.threshold is not None else None
    ours = price.policy(f"this router ({router.mode})", tested, small, paid_as)
    alternatives = _alternatives(log, tested, test, ours)
    oracle = next(policy for policy in alternatives if policy.name == "oracle")
    sent, errors = int(small.sum()), int((small * (1 - tested.acceptable)).sum())
    return CaptionsResult(
        threshold=router.threshold,
        alpha=settings.alpha,
        delta=settings.delta,
        small_share=ours.small_share,
        savings=ours.savings,
        quality_loss=float(tested.large_quality.mean()) - ours.quality,
        oracle_savings=oracle.savings,
        savings_low=ours.low,
        savings_high=ours.high,
        share_of_oracle=ours.savings / oracle.savings if oracle.savings > 0 else None,
        error=errors / sent if sent else None,
        error_high=certify.upper_bound(errors, sent, settings.delta) if sent else None,
        certified=router.threshold is not None,
        why=_why(router, steps, settings, candidates),
        needed=_needed(settings),
        requests=sizes | {"left out": len(log.left_out)},
        acceptable_share=float(tested.acceptable.mean()),
        cost_ratio=float(tested.small_cost.mean() / tested.large_cost.mean()),
        router_cost=settings.router_cost or None,
        mode=router.mode,
        modes=tuple(candidate.promise for candidate in candidates),
        steps=tuple(steps),
        policies=(ours, *alternatives),
        slices=tuple(_slices(log, tested, test, small, settings.delta)),
        mistakes=tuple(_mistakes(log, tested, test, small, scores)),
        curve=tuple(_curve(tested, scores, router.mode)),
        router=router,
    )


def _sent(scores: Array, threshold: float | None) -> Array:
    """1.0 for each request that goes to the small model, 0.0 for the rest."""
    return np.zeros(len(scores)) if threshold is None else (scores >= threshold).astype(float)


def _alternatives(log: Log, tested: price.Prices, test: Indices, ours: Policy) -> list[Policy]:
    nobody, everybody = np.zeros(len(test)), np.ones(len(test))
    lengths = np.asarray([len(log.rows[i].prompt) for i in test])
    ranked = np.empty(len(test))
    ranked[np.argsort(lengths, kind="stable")] = np.arange(len(test))
    short = (ranked < round(ours.small_share * len(test))).astype(float)
    return [
        price.policy("always large", tested, nobody, None),
        price.policy("always small", tested, everybody, None),
        price.policy("at random, equal cost", tested, price.mixed_at(tested, ours.cost), None),
        price.policy("shortest prompts, equal share", tested, short, None),
        price.policy("oracle", tested, tested.acceptable, None),
    ]


def _why(
    router: Router, steps: list[Step], settings: CalibrationSettings, candidates: list[_Candidate]
) -> str:
    if router.threshold is not None:
        last = [step for step in steps if step.passed][-1]
        return (
            f"at most {settings.alpha:.1%} of what goes to the small model is unacceptable, with "
            f"{1 - settings.delta:.0%} confidence: {last.errors} of {last.sent} requests were, "
            f"bound {last.bound:.2%}"
        )
    least = certify.needed(settings.alpha, settings.delta, 0.0)
    if steps:
        first = steps[0]
        reason = (
            f"{first.errors} of {first.sent} requests were unacceptable, bound {first.bound:.2%}"
        )
    else:
        reason = "no threshold promised it on the calibration split"
    return (
        f"not certified at {settings.alpha:.1%}: {reason}. Everything goes to the large model. At "
        f"least {least:,} requests that go to the small model must be seen without an error; log "
        "more requests, or allow a larger alpha"
    )


def _needed(settings: CalibrationSettings) -> dict[str, int]:
    rates = (0.0, settings.alpha / 4, settings.alpha / 2, settings.alpha * 3 / 4)
    counts = {rate: certify.needed(settings.alpha, settings.delta, rate) for rate in rates}
    return {f"{rate:.3%}": count for rate, count in counts.items() if count is not None}


def _slices(
    log: Log, tested: price.Prices, test: Indices, small: Array, delta: float
) -> list[Slice]:
    names = np.asarray([log.rows[i].slice or "all" for i in test])
    masks = [(str(name), names == name) for name in np.unique(names)]
    heavy = np.asarray([log.rows[i].heavy for i in test])
    masks += [("heavy cases", heavy)] if heavy.any() else []
    return [
        _slice(name, tested.of(np.flatnonzero(mask)), small[mask], delta) for name, mask in masks
    ]


def _slice(name: str, prices: price.Prices, small: Array, delta: float) -> Slice:
    sent, errors = int(small.sum()), int((small * (1 - prices.acceptable)).sum())
    quality = small * prices.small_quality + (1 - small) * prices.large_quality
    return Slice(
        name=name,
        requests=len(small),
        small_share=float(small.mean()),
        error=errors / sent if sent else None,
        error_high=certify.upper_bound(errors, sent, delta) if sent else None,
        quality=float(quality.mean()),
        quality_large=float(prices.large_quality.mean()),
    )


def _mistakes(
    log: Log, tested: price.Prices, test: Indices, small: Array, scores: Array, most: int = 12
) -> list[Mistake]:
    wrong = np.flatnonzero((small > 0) & (tested.acceptable == 0))
    wrong = wrong[np.argsort(-scores[wrong], kind="stable")][:most]
    mistakes = []
    for index in wrong:
        row = log.rows[test[index]]
        mistakes.append(
            Mistake(
                id=row.id,
                slice=row.slice,
                prompt=row.prompt,
                probability=float(scores[index]),
                small=row.small.text,
                large=row.large.text,
                image=_thumbnail_url(row.image, log.folder),
            )
        )
    return mistakes


def _thumbnail_url(image: str | None, folder: Path) -> str | None:
    """A thumbnail as a data URL, where the log has the picture."""
    if image is None:
        return None
    try:
        small, _ = features.thumbnail(picture_of(image, folder))
    except features.NotSeen:
        return None
    buffer = io.BytesIO()
    Image.fromarray((small * 255).astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(tested: price.Prices, scores: Array, mode: Mode, points: int = 24) -> list[Policy]:
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, points)))
    return [
        price.policy(f"threshold {t:.3f}", tested, _sent(scores, t), mode, resamples=0)
        for t in thresholds
    ]
