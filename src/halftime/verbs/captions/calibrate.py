"""From a log to a certified router: learn, choose a mode, certify a choice, and report.

The report is on requests that were used for nothing before.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from halftime.base.errors import BadInput
from halftime.base.version import version
from halftime.records.captions import (
    CaptionsResult,
    FirstLook,
    LogPower,
    Mistake,
    Mode,
    NeverSmall,
    Policy,
    Router,
    Slice,
    Step,
)
from halftime.verbs.captions import certify, choices, features, price
from halftime.verbs.captions.choices import Scores, Thresholds, scores_of, sent, without
from halftime.verbs.captions.families import Division, Treatment, divide, power
from halftime.verbs.captions.features import Array, Indices
from halftime.verbs.captions.learn import Learned, Scale, constant, learned, scale_of
from halftime.verbs.captions.log import Log, picture_of
from halftime.verbs.captions.rules import barring

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
    `router_cost` and `router_seconds` are what one decision costs. `families` says what large
    families of near duplicates are: 'recurring' ones come again, as a fixed camera's do, 'passing'
    ones do not, and 'auto' goes by whether they come all through the log. What a rule of
    `never_small` bars is proved and reported as going to the large model.
    """

    alpha: float = 0.02
    delta: float = 0.05
    tolerance: float = 0.0
    mode: Literal["auto", "route", "cascade"] = "auto"
    router_cost: float = 0.0
    router_seconds: float = 0.0
    seed: int = 0
    families: Treatment = "auto"
    never_small: tuple[NeverSmall, ...] = ()

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
    """One mode, learned; the choices to test; what it promises by requests it had not seen."""

    router: Router
    values: Array
    barred: Array  # 1.0 for requests that a rule keeps from the small model
    choices: list[Thresholds]
    promise: Policy

    @property
    def cascade(self) -> bool:
        return self.router.mode == "cascade"

    def scores(self, chosen: Indices, router: Router | None = None) -> Scores:
        """Probabilities of some of the log's requests."""
        scores = scores_of(router or self.router, self.values[chosen])
        return without(scores, self.barred[chosen])


def power_of(log: Log, settings: CalibrationSettings) -> LogPower:
    """What the log can certify, before anything is learned from it."""
    division = division_of(log, settings)
    return power(division, len(log.rows), alpha=settings.alpha, delta=settings.delta)


def division_of(log: Log, settings: CalibrationSettings) -> Division:
    """Which requests teach, prove and are reported on."""
    return divide(
        log.groups,
        alpha=settings.alpha,
        delta=settings.delta,
        seed=settings.seed,
        treatment=settings.families,
    )


def calibrate(log: Log, settings: CalibrationSettings) -> CaptionsResult:
    """The whole calibration.

    Raises BadInput for a log that is too small to split, in which nothing can be saved, or that has
    no checks for a cascade.
    """
    prices = price.prices_of(log, settings.tolerance, settings.router_cost, settings.router_seconds)
    check_log(log)
    division = division_of(log, settings)
    log_power = power(division, len(log.rows), alpha=settings.alpha, delta=settings.delta)
    taught = prices.of(division.fit)
    modes = _modes(log, settings)[: 1 if log_power.why_few else None]
    plain = _plain(log, taught, division, log_power)
    candidates = [_candidate(mode, log, taught, division, plain, settings) for mode in modes]
    best = max(candidates, key=lambda candidate: candidate.promise.savings)
    steps = _proved(best, prices, division, settings)
    router = _finished(best, steps)
    return _result(log, prices, router, best, division, log_power, steps, settings, candidates)


def _plain(log: Log, taught: price.Prices, division: Division, log_power: LogPower) -> Learned:
    """The model without a check; where the log cannot certify anything, nothing is learned."""
    standard = _standard("route", log, division.fit)[1]
    if log_power.why_few:
        return constant(standard.shape[1], taught.acceptable)
    return learned(standard, taught.acceptable, taught.family)


def check_log(log: Log) -> None:
    """Raises BadInput for a log that is too small to split, or in which nothing can be saved."""
    if len(log.rows) < FEWEST:
        raise BadInput(
            f"the log has {len(log.rows)} usable requests; at least {FEWEST} are needed, and "
            "better 2,000."
        )
    small, large = (
        sum(answer.cost for answer in answers) / len(log.rows)
        for answers in ([row.small for row in log.rows], [row.large for row in log.rows])
    )
    if not large > 0:
        raise BadInput(
            "the large model's answers cost nothing in this log, so that nothing can be saved; a "
            "'cost' must be above 0. `halftime captions collect` writes it from --small-price, "
            "--large-price and the like."
        )
    if small >= large:
        raise BadInput(
            f"the small model costs {small:.6g} a request in this log and the large one "
            f"{large:.6g}, so that sending requests to the small one saves nothing. Exchange the "
            "models, or correct their prices."
        )


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
    mode: Mode,
    log: Log,
    taught: price.Prices,
    division: Division,
    plain: Learned,
    settings: CalibrationSettings,
) -> _Candidate:
    """`taught`: what the requests cost that are learned from; `plain`: learned without a check."""
    values, names = values_of(mode, log)
    scale, standard = _standard(mode, log, division.fit)
    cascade = mode == "cascade"
    last = learned(standard, taught.acceptable, taught.family) if cascade else plain
    first = plain if cascade else None
    barred = _barred(log, names, settings.never_small)
    held_out = Scores(last.held_out, first.held_out if first is not None else None)
    scores = without(held_out, barred[division.fit])
    router = Router(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mode=mode,
        features=names,
        mean=tuple(scale.mean.tolist()),
        scale=tuple(scale.width.tolist()),
        limit=scale.limit,
        **_model(last),
        first_look=FirstLook(**_model(first), small_from=2.0, ask_from=2.0) if first else None,
        threshold=None,
        alpha=settings.alpha,
        delta=settings.delta,
        tolerance=settings.tolerance,
        never_small=settings.never_small,
        shapes=tuple(sorted({row.shape for row in log.rows} - {""})),
    )
    path = choices.path(scores, taught, settings.alpha)
    small = [sent(scores, step, cascade).small for step in path]
    errors = np.asarray([float((chosen * (1 - taught.acceptable)).sum()) for chosen in small])
    sizes = np.asarray([float(chosen.sum()) for chosen in small])
    ranks = certify.sequence(
        errors,
        sizes,
        len(standard),
        alpha=settings.alpha,
        delta=settings.delta,
        draws=len(division.proof),
    )
    # the loosest that is within alpha here: what the mode may hope for
    fitting = [rank for rank in ranks if errors[rank] <= settings.alpha * sizes[rank]]
    hoped = sent(scores, path[fitting[-1]] if fitting else None, cascade)
    promise = price.policy(
        mode, taught, hoped.small, hoped.checked, routed=bool(fitting), resamples=0
    )
    return _Candidate(router, values, barred, [path[rank] for rank in ranks], promise)


def _standard(mode: Mode, log: Log, fit: Indices) -> tuple[Scale, Array]:
    """How features are scaled, and the standard scores of the requests that are learned from."""
    values = values_of(mode, log)[0][fit]
    scale = scale_of(values)
    return scale, (values - scale.mean) / scale.width


def _model(fitted: Learned) -> dict[str, Any]:
    """The fields of a Router or a FirstLook that are learned."""
    fields = fitted._asdict()
    del fields["held_out"]
    return fields


def _barred(log: Log, names: tuple[str, ...], rules: tuple[NeverSmall, ...]) -> Array:
    """1.0 for each request of the log that a rule keeps from the small model."""
    sized = [rule.name for rule in rules if rule.pixels_below or rule.pixels_above]
    if sized and names[0] != features.NAMES[0]:
        raise BadInput(
            f"the rule {sized[0]!r} goes by the picture's pixels, which this log of other features "
            "does not tell. Leave the condition out, or log the pictures."
        )
    pixels = np.exp(log.values[:, 0]) if sized else np.zeros(len(log.rows))
    pairs = zip(log.rows, pixels, strict=True)
    barred = [barring(rules, row.prompt, float(size)) is not None for row, size in pairs]
    return np.asarray(barred, dtype=float)


def values_of(mode: Mode, log: Log) -> tuple[Array, tuple[str, ...]]:
    """Requests x features as a mode sees them, and their names."""
    width, names = log.values.shape[1], features.NAMES
    if width != len(names):
        names = tuple(f"feature {i + 1}" for i in range(width))
    if mode == "route":
        return log.values, names
    scores = np.asarray([[row.check.score if row.check else 0.0] for row in log.rows])
    return np.hstack([log.values, scores]), (*names, "check")


def _proved(
    best: _Candidate, prices: price.Prices, division: Division, settings: CalibrationSettings
) -> list[Step]:
    scores = best.scores(division.proof)
    return certify.certified(
        [(choice.threshold, sent(scores, choice, best.cascade).small) for choice in best.choices],
        prices.acceptable[division.proof],
        alpha=settings.alpha,
        delta=settings.delta,
        passing=division.passing,
    )


def _finished(best: _Candidate, steps: list[Step]) -> Router:
    count = sum(step.passed for step in steps)
    chosen = best.choices[count - 1] if count else None
    small = sent(best.scores(np.arange(len(best.values))), chosen, best.cascade).small
    router, look = best.router, best.router.first_look
    if chosen is not None and look is not None:
        look = msgspec.structs.replace(look, small_from=chosen.small_from, ask_from=chosen.ask_from)
    return msgspec.structs.replace(
        router,
        first_look=look,
        threshold=chosen.threshold if chosen is not None else None,
        small_share=float(small.mean()),
    )


def _result(
    log: Log,
    prices: price.Prices,
    router: Router,
    best: _Candidate,
    division: Division,
    log_power: LogPower,
    steps: list[Step],
    settings: CalibrationSettings,
    candidates: list[_Candidate],
) -> CaptionsResult:
    test = division.test
    scores, tested = best.scores(test, router), prices.of(test)
    choice = sent(scores, choices.thresholds_of(router), best.cascade)
    small, certified = choice.small, router.threshold is not None
    # Without a certificate nothing is looked at, so nothing is paid for looking.
    ours = price.policy(
        f"this router ({router.mode})", tested, small, choice.checked, routed=certified
    )
    alternatives = _alternatives(log, tested, test, ours)
    oracle = next(policy for policy in alternatives if policy.name == "oracle")
    error, error_high = error_share(tested, small, settings.delta)
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
        error=error,
        error_high=error_high,
        certified=certified,
        why=_why(router, steps, settings, log_power),
        needed=_needed(settings),
        requests=_sizes(division) | {"left out": len(log.left_out)},
        acceptable_share=float(tested.acceptable.mean()),
        cost_ratio=float(tested.small_cost.mean() / tested.large_cost.mean()),
        router_cost=settings.router_cost or None,
        families=division.counts,
        power=log_power,
        checked_share=float(choice.checked.mean()),
        mode=router.mode,
        modes=tuple(candidate.promise for candidate in candidates),
        steps=tuple(steps),
        policies=(ours, *alternatives),
        slices=tuple(_slices(log, tested, test, small, settings.delta)),
        mistakes=tuple(_mistakes(log, tested, test, small, scores.last)),
        curve=tuple(_curve(tested, scores, best)),
        router=router,
    )


def _sizes(division: Division) -> dict[str, int]:
    return {
        "learning": len(division.fit),
        "certificate": len(division.proof),
        "test": len(division.test),
    }


def error_share(
    prices: price.Prices, small: Array, delta: float
) -> tuple[float | None, float | None]:
    """Share of errors among what is sent, and its upper bound.

    Near duplicates count less (Kish's effective sample size): as many as there would be if
    families were equal in size.
    """
    count, errors = float(small.sum()), float((small * (1 - prices.acceptable)).sum())
    if not count:
        return None, None
    _, sizes = np.unique(prices.family[small > 0], return_counts=True)
    effect = float(np.square(sizes).sum() / sizes.sum())
    return errors / count, certify.upper_bound(errors / effect, count / effect, delta)


def _alternatives(log: Log, tested: price.Prices, test: Indices, ours: Policy) -> list[Policy]:
    nobody, everybody = np.zeros(len(test)), np.ones(len(test))
    lengths = np.asarray([len(log.rows[i].prompt) for i in test])
    ranked = np.empty(len(test))
    ranked[np.argsort(lengths, kind="stable")] = np.arange(len(test))
    short = (ranked < round(ours.small_share * len(test))).astype(float)
    return [
        price.policy("always large", tested, nobody),
        price.policy("always small", tested, everybody),
        price.policy("at random, equal cost", tested, price.mixed_at(tested, ours.cost)),
        price.policy("shortest prompts, equal share", tested, short),
        price.policy("oracle", tested, tested.acceptable),
    ]


def _why(
    router: Router, steps: list[Step], settings: CalibrationSettings, log_power: LogPower
) -> str:
    if router.threshold is not None:
        last = [step for step in steps if step.passed][-1]
        return (
            f"at most {settings.alpha:.1%} of what goes to the small model is unacceptable, with "
            f"{1 - settings.delta:.0%} confidence: {last.errors} of {last.sent} requests were, "
            f"bound {last.bound:.2%}"
        )
    if log_power.why_few:
        reason = (
            f"{log_power.why_few}. {log_power.draws:,} of them are independent evidence for the "
            f"certificate, which could prove {log_power.least_alpha:.1%} at best"
        )
    elif steps:
        first = steps[0]
        reason = (
            f"{first.errors} of {first.sent} requests were unacceptable, bound {first.bound:.2%}"
        )
    else:
        reason = "no threshold promised it on requests that the router had not learned from"
    return (
        f"not certified at {settings.alpha:.1%}: {reason}. Everything goes to the large model. At "
        f"least {log_power.needed:,} independent requests that go to the small model must be seen "
        "without an error; log more different pictures, or allow a larger alpha"
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
    error, error_high = error_share(prices, small, delta)
    quality = small * prices.small_quality + (1 - small) * prices.large_quality
    return Slice(
        name=name,
        requests=len(small),
        small_share=float(small.mean()),
        error=error,
        error_high=error_high,
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


def _curve(
    tested: price.Prices, scores: Scores, best: _Candidate, points: int = 24
) -> list[Policy]:
    """The same router at other choices, on the test split."""
    path = choices.path(scores, tested, best.router.alpha)
    ranks = np.unique(np.linspace(0, len(path) - 1, points if path else 0).round().astype(int))
    curve = []
    for rank in ranks:
        choice = sent(scores, path[rank], best.cascade)
        name = f"threshold {path[rank].threshold:.3f}"
        curve.append(
            price.policy(name, tested, choice.small, choice.checked, routed=True, resamples=0)
        )
    return curve
