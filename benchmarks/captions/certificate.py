"""Does the certificate hold, over repeated calibrations of logs whose truth is known?

Regime: logs of 3,000 requests from a population in which every request's chance of an unacceptable
small answer is known; `halftime captions calibrate` (route, alpha 2 %, delta 5 %) as a user calls
it; the truth is computed on 12,000 fresh requests of the same population. Six kinds of log:

independent   every picture its own
clustered     750 families of four near duplicates that fail or succeed together; the future brings
              other families
unequal       four fixed cameras have 5 % of the requests each, half of the cameras fail 30 % of the
              time; the future brings the same cameras
skewed        families of 1 to 60 (a power law), which fail or succeed together, large ones more
              often; the future brings other families
bursts        four pictures go round for a while, with 4 % of the requests each, and fail or succeed
              as one; the future brings other bursts
easy          independent, and the small model nearly always succeeds
chain         independent, with a middle model that fails less often: a chain of three

    python -m benchmarks.captions.certificate [--kinds bursts easy]
        --out benchmarks/results/captions_certificate.json

Bar: where a certificate is given the true error is at most alpha, in at least 95 % of 200 repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from benchmarks.frame import Frame
from halftime.records.captions import Answer, Between, Logged
from halftime.verbs.captions.calibrate import CalibrationSettings, calibrate
from halftime.verbs.captions.chain import answered_by, calibrate_chain
from halftime.verbs.captions.choices import scores_of, sent, thresholds_of
from halftime.verbs.captions.log import Log

REQUESTS, FUTURE, WIDTH = 3000, 12_000, 6
SMALL_COST = 0.1


class Sample(NamedTuple):
    """Requests: features, the chance that each fails, whether it did, and its family."""

    values: np.ndarray
    chance: np.ndarray
    fails: np.ndarray
    family: np.ndarray


def chance_of(values: np.ndarray, base: float = -6.0) -> np.ndarray:
    """The first two features tell how hard a request is, not linearly."""
    return 1 / (1 + np.exp(-(base + 2.0 * values[:, 0] + 1.5 * np.abs(values[:, 1]))))


def families(rng: np.random.Generator, sizes: np.ndarray, base: float = -6.0) -> Sample:
    """Near duplicates differ by little, and fail or succeed together."""
    centres = rng.normal(size=(len(sizes), WIDTH))
    chance = np.minimum(1.0, chance_of(centres, base) * (1 + np.log(sizes)))
    fails = rng.random(len(sizes)) < chance
    member = np.repeat(np.arange(len(sizes)), sizes)
    values = centres[member] + 0.02 * rng.normal(size=(len(member), WIDTH))
    return Sample(values, chance[member], fails[member].astype(float), member)


def independent(rng: np.random.Generator, count: int, seed: int) -> Sample:
    return families(rng, np.ones(count, dtype=int))


def easy(rng: np.random.Generator, count: int, seed: int) -> Sample:
    return families(rng, np.ones(count, dtype=int), base=-9.0)


def clustered(rng: np.random.Generator, count: int, seed: int) -> Sample:
    return shuffled(rng, families(rng, np.full(count // 4, 4)))


def skewed(rng: np.random.Generator, count: int, seed: int) -> Sample:
    sizes = np.minimum(60, np.floor(rng.pareto(1.5, size=count) + 1)).astype(int)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    return shuffled(rng, families(rng, sizes))


def unequal(rng: np.random.Generator, count: int, seed: int) -> Sample:
    """The cameras are the seed's own: the same ones in the log and in the future."""
    world = np.random.default_rng(10_000 + seed)
    centres = world.normal(size=(4, WIDTH)) * 0.7
    chance = np.where(world.random(4) < 0.5, 0.3, 0.002)
    camera = np.repeat(np.arange(4), count // 20)
    values = centres[camera] + 0.05 * rng.normal(size=(len(camera), WIDTH))
    fails = (rng.random(len(camera)) < chance[camera]).astype(float)
    others = independent(rng, count - len(camera), seed)
    return shuffled(rng, joined(others, Sample(values, chance[camera], fails, camera)))


def bursts(rng: np.random.Generator, count: int, seed: int) -> Sample:
    """In the log four bursts, each in one stretch; in the future as many bursts as requests, since
    the promise is about bursts that may come."""
    long = count > REQUESTS
    burst = families(rng, np.full(round(0.16 * count) // (1 if long else 120), 1 if long else 120))
    chance = np.full(len(burst.chance), 0.15)
    fails = (rng.random(len(np.unique(burst.family))) < 0.15).astype(float)[burst.family]
    others = independent(rng, count - len(burst.chance), seed)
    return joined(others, burst._replace(chance=chance, fails=fails))


def joined(first: Sample, second: Sample) -> Sample:
    columns = [np.concatenate(pair) for pair in zip(first[:3], second[:3], strict=True)]
    family = np.concatenate([first.family, first.family.max() + 1 + second.family])
    return Sample(*columns, family)


def shuffled(rng: np.random.Generator, sample: Sample) -> Sample:
    order = rng.permutation(len(sample.chance))
    return Sample(*(column[order] for column in sample))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Sample]] = {
    "independent": independent,
    "clustered": clustered,
    "unequal": unequal,
    "skewed": skewed,
    "bursts": bursts,
    "easy": easy,
}


NAMES = [*KINDS, "chain"]


def log_of(sample: Sample) -> Log:
    rows = tuple(
        Logged(
            id=f"r{number}",
            prompt="What is this?",
            features=(),
            small=Answer(quality=1 - float(fails), cost=SMALL_COST),
            large=Answer(quality=1.0, cost=1.0),
        )
        for number, fails in enumerate(sample.fails)
    )
    return Log(rows, sample.values, tuple(sample.family.tolist()))


def repetition(kind: str, seed: int, settings: CalibrationSettings) -> dict[str, float]:
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
    result = calibrate(log_of(KINDS[kind](rng, REQUESTS, seed)), settings)
    future = KINDS[kind](rng, FUTURE, seed)
    small = sent(
        scores_of(result.router, future.values), thresholds_of(result.router), cascade=False
    ).small
    error = float((small * future.chance).sum() / small.sum()) if small.any() else 0.0
    oracle = float((1 - future.chance).mean())
    return {
        "certified": float(result.certified),
        "error": error,
        "small_share": float(small.mean()),
        "of_oracle": float(small.mean()) / oracle,
        "draws": float(result.power.draws if result.power else 0),
    }


def chain_repetition(seed: int, settings: CalibrationSettings) -> dict[str, float]:
    """Three models: the middle one fails where the small one does, and less often."""
    rng = np.random.default_rng([seed, 99])
    log, _ = three_models(rng, REQUESTS)
    result = calibrate_chain(log, settings)
    future, chances = three_models(rng, FUTURE)
    answered = answered_by(future, result.chain.routers)
    sent_away = sum(column.sum() for column in answered)
    pairs = zip(answered, chances, strict=True)
    failures = sum(float((column * chance).sum()) for column, chance in pairs)
    return {
        "certified": float(result.certified),
        "error": failures / sent_away if sent_away else 0.0,
        "small_share": float(sent_away) / FUTURE,
        "of_oracle": float(sent_away) / FUTURE / float((1 - chances[1]).mean()),
        "draws": 0.0,
    }


def three_models(rng: np.random.Generator, count: int) -> tuple[Log, list[np.ndarray]]:
    sample = independent(rng, count, 0)
    middle = chance_of(sample.values, base=-8.0)
    fails = sample.fails * (rng.random(count) < middle / sample.chance)
    rows = tuple(
        msgspec.structs.replace(
            line, between=(Between(answer=Answer(quality=1 - float(failed), cost=0.4)),)
        )
        for line, failed in zip(log_of(sample).rows, fails, strict=True)
    )
    return replace(log_of(sample), rows=rows), [sample.chance, middle]


def row(kind: str, repeats: int, settings: CalibrationSettings) -> dict[str, object]:
    rows = [
        chain_repetition(seed, settings) if kind == "chain" else repetition(kind, seed, settings)
        for seed in range(repeats)
    ]
    column = {name: np.asarray([each[name] for each in rows]) for name in rows[0]}
    certified = column["certified"] > 0
    broken = int((column["error"] > settings.alpha).sum())
    middle = {
        name: float(np.median(column[name][certified])) if certified.any() else None
        for name in ("error", "small_share", "of_oracle")
    }
    return {
        "what": kind,
        "repeats": repeats,
        "draws": float(np.median(column["draws"])),
        "certified": int(certified.sum()),
        "broken": broken,
        "held": 1 - broken / repeats,
        **middle,
        "bar": 0.95,
        "reached": 1 - broken / repeats >= 0.95,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--repeats", type=int, default=200)
    frame.parser.add_argument("--kinds", nargs="+", choices=sorted(NAMES), default=NAMES)
    options = frame.parse()
    settings = CalibrationSettings(mode="route")
    finished = {each["what"]: each for each in frame.earlier().get("rows", ())}
    for kind in options.kinds:
        finished[kind] = row(kind, options.repeats, settings)
        print(finished[kind], flush=True)
        rows = [finished[name] for name in NAMES if name in finished]
        frame.write({"alpha": settings.alpha, "delta": settings.delta, "rows": rows})


if __name__ == "__main__":
    main()
