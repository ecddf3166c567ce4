"""More than two models: a router before each but the largest, in a chain from the cheapest on.

Each router decides between its model and all that follow, on the requests that those before it left
over. It is calibrated on a part of the log that no router before it has seen, as these choose what
it is asked, and at an equal part of delta. Whatever the largest model does not answer is then
acceptable but for a share alpha, with confidence 1 - delta: of each model's answers (a union
bound), and so of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from halftime.base.errors import BadInput
from halftime.base.version import version
from halftime.records.captions import CaptionsResult, Chain, ChainResult, Leg, Policy, Router
from halftime.verbs.captions import price
from halftime.verbs.captions.calibrate import (
    FEWEST,
    CalibrationSettings,
    calibrate,
    division_of,
    error_share,
    values_of,
)
from halftime.verbs.captions.choices import Sent, scores_of, sent, thresholds_of
from halftime.verbs.captions.features import Array, Indices
from halftime.verbs.captions.learn import split
from halftime.verbs.captions.log import Log


class _Walk(NamedTuple):
    """How requests go through a chain: 1.0 for each that a leg's model answers, leg by leg."""

    answered: list[Array]
    acceptable: Array  # of those answers; 1.0 of the large model's
    quality: Array
    cost: Array
    seconds: Array


def legs_of(log: Log) -> int:
    """Models before the largest. Raises BadInput where lines have different numbers of them."""
    counts = {len(row.between) for row in log.rows}
    if len(counts) > 1:
        raise BadInput(
            f"the log has lines with {' and '.join(map(str, sorted(counts)))} models between the "
            "small and the large one. Give each line the answers of the same models."
        )
    return 1 + counts.pop()


def calibrate_chain(log: Log, settings: CalibrationSettings) -> ChainResult:
    """The chain, its savings on requests that calibrated nothing, and the two models alone.

    Raises BadInput as `calibrate` does, and where a model costs no less than the one after it.
    """
    count = legs_of(log)
    _check_costs(log, count)
    parts = split(log.groups, (1 / count,) * count, settings.seed)
    portion = replace(settings, delta=settings.delta / count)
    routers: list[Router] = []
    results: list[CaptionsResult | None] = []
    for number, part in enumerate(parts):
        over = part[_left_over(_subset(log, part), routers) > 0]
        view = leg_log(_subset(log, over), number)
        if routers and len(over) < FEWEST:  # the models before it leave hardly anything
            routers.append(msgspec.structs.replace(routers[0], threshold=None))
            results.append(None)
            continue
        results.append(calibrate(view, portion))
        routers.append(results[-1].router)  # type: ignore[union-attr]
    first = leg_log(_subset(log, parts[0]), 0)
    unseen = _subset(log, parts[0][division_of(first, portion).test])
    return _result(unseen, _alike(routers), results, settings, calibrate(leg_log(log, 0), settings))


def leg_log(log: Log, number: int) -> Log:
    """The log as the router of this leg learns from it: its model, and the large one."""
    if number == 0:
        return log
    rows = tuple(
        msgspec.structs.replace(
            row, small=row.between[number - 1].answer, check=row.between[number - 1].check
        )
        for row in log.rows
    )
    return replace(log, rows=rows)


def _subset(log: Log, indices: Indices) -> Log:
    rows = tuple(log.rows[i] for i in indices)
    groups = tuple(log.groups[i] for i in indices)
    return replace(log, rows=rows, values=log.values[indices], groups=groups)


def _check_costs(log: Log, count: int) -> None:
    logs = [leg_log(log, number) for number in range(count)]
    costs = [sum(row.small.cost for row in view.rows) / len(log.rows) for view in logs]
    for number, (cost, following) in enumerate(pairwise(costs)):
        if cost >= following:
            raise BadInput(
                f"model {number + 1} of the chain costs {cost:.6g} a request in this log and the "
                f"one after it {following:.6g}. A chain goes from the cheapest model to the "
                "dearest: exchange them, or correct their prices."
            )


def _alike(routers: Sequence[Router]) -> tuple[Router, ...]:
    """The same requests are looked at by all: those of shapes that every part of the log has."""
    shapes = frozenset.intersection(*(frozenset(router.shapes) for router in routers))
    return tuple(
        msgspec.structs.replace(router, shapes=tuple(sorted(shapes))) for router in routers
    )


def _choice(router: Router, view: Log) -> Sent:
    scores = scores_of(router, values_of(router.mode, view)[0])
    return sent(scores, thresholds_of(router), router.mode == "cascade")


def answered_by(log: Log, routers: Sequence[Router]) -> list[Array]:
    """1.0 for each request that a router's model answers, router by router."""
    over, answered = np.ones(len(log.rows)), list[Array]()
    for number, router in enumerate(routers):
        answered.append(over * _choice(router, leg_log(log, number)).small)
        over = over - answered[-1]
    return answered


def _left_over(log: Log, routers: Sequence[Router]) -> Array:
    """1.0 for each request that these routers send to none of their models."""
    return np.ones(len(log.rows)) - sum(answered_by(log, routers))


def _walk(log: Log, routers: Sequence[Router], settings: CalibrationSettings) -> _Walk:
    over = np.ones(len(log.rows))
    acceptable, quality, cost, seconds = (np.zeros(len(over)) for _ in range(4))
    answered: list[Array] = []
    for number, router in enumerate(routers):
        view = leg_log(log, number)
        prices, choice = price.prices_of(view, settings.tolerance, 0.0, 0.0), _choice(router, view)
        small, checked = choice.small * over, choice.checked * over
        calls, looked = np.maximum(small, checked), over * (router.threshold is not None)
        cost += calls * prices.small_cost + checked * prices.check_cost
        cost += looked * settings.router_cost
        seconds += calls * prices.small_seconds + checked * prices.check_seconds
        seconds += looked * settings.router_seconds
        quality += small * prices.small_quality
        acceptable += small * prices.acceptable
        answered.append(small)
        over = over - small
    large = price.prices_of(log, settings.tolerance, 0.0, 0.0)
    return _Walk(
        answered,
        acceptable + over,
        quality + over * large.large_quality,
        cost + over * large.large_cost,
        seconds + over * large.large_seconds,
    )


def _oracle_cost(log: Log, count: int, settings: CalibrationSettings) -> Array:
    """Of the cheapest model whose answer is acceptable."""
    views = [
        price.prices_of(leg_log(log, number), settings.tolerance, 0.0, 0.0)
        for number in range(count)
    ]
    costs = [np.where(view.acceptable > 0, view.small_cost, np.inf) for view in views]
    return np.asarray(np.min([*costs, views[0].large_cost], axis=0))


def _result(
    unseen: Log,
    routers: tuple[Router, ...],
    results: Sequence[CaptionsResult | None],
    settings: CalibrationSettings,
    pair: CaptionsResult,
) -> ChainResult:
    walk = _walk(unseen, routers, settings)
    large = price.prices_of(unseen, settings.tolerance, 0.0, 0.0)
    everything = float(large.large_cost.sum())
    sent_away = np.sum(walk.answered, axis=0)
    error, error_high = error_share(
        replace(large, acceptable=walk.acceptable), sent_away, settings.delta
    )
    oracle = 1 - float(_oracle_cost(unseen, len(routers), settings).sum()) / everything
    savings = 1 - float(walk.cost.sum()) / everything
    return ChainResult(
        alpha=settings.alpha,
        delta=settings.delta,
        certified=any(router.threshold is not None for router in routers),
        savings=savings,
        oracle_savings=oracle,
        share_of_oracle=savings / oracle if oracle > 0 else None,
        pair_savings=pair.savings,
        quality_loss=float(large.large_quality.mean() - walk.quality.mean()),
        error=error,
        error_high=error_high,
        requests=len(unseen.rows),
        legs=tuple(
            _leg(number, router, result, walk.answered[number], walk.acceptable)
            for number, (router, result) in enumerate(zip(routers, results, strict=True))
        ),
        policy=Policy(
            name="chain",
            small_share=float(sent_away.mean()),
            cost=float(walk.cost.mean()),
            seconds=float(walk.seconds.mean()),
            quality=float(walk.quality.mean()),
            quality_low=float(walk.quality.mean()),
            quality_high=float(walk.quality.mean()),
            savings=savings,
            low=savings,
            high=savings,
            error=error,
        ),
        chain=Chain(
            halftime=version(), routers=routers, alpha=settings.alpha, delta=settings.delta
        ),
    )


def _leg(
    number: int,
    router: Router,
    result: CaptionsResult | None,
    answered: Array,
    acceptable: Array,
) -> Leg:
    count = float(answered.sum())
    why = "the models before it leave hardly a request over" if result is None else result.why
    return Leg(
        model="small" if number == 0 else f"between {number}",
        mode=router.mode,
        certified=router.threshold is not None,
        why=why,
        share=float(answered.mean()),
        error=float((answered * (1 - acceptable)).sum()) / count if count else None,
        requests=sum(result.requests.values()) if result else 0,
    )
