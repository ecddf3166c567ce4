"""`plan`: every way to run a call on a card, weighed; the best first, and what rules out others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from halftime.base.errors import BadInput
from halftime.base.version import version
from halftime.records.gpus import Gpu
from halftime.records.plan import DeploymentPlan, PlanRefusal, PlanRow
from halftime.verbs.forecast.constants import Constants, shipped
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.predict import (
    Z90,
    ComponentRun,
    Effects,
    Machine,
    StageWork,
    doubt_of,
    gradient,
    spread,
    total_seconds,
    uncalibrated,
)
from halftime.verbs.forecast.prices import CONTEXT_BYTES, read_prices
from halftime.verbs.forecast.quantised import QUANTISED
from halftime.verbs.forecast.saved import calibration_of, machine_after
from halftime.verbs.forecast.scenario import ForecastSettings, Scenario, scenario_of
from halftime.verbs.forecast.whatif import REUSED_SHARE
from halftime.verbs.plan import transfers
from halftime.verbs.plan.card import card_named
from halftime.verbs.plan.memory import component_bytes, distinct, peak_bytes
from halftime.verbs.plan.ways import PlanWay, parallel_ways, refusals, ways

BEST = 3
MOST_CARDS = 8


def plan(
    model: str | None = None,
    card: str = "24GB",
    *,
    cards: int = 1,
    target_seconds: float | None = None,
    settings: ForecastSettings | None = None,
    prices: Path | str | None = None,
    host: str | None = None,
    allow_cache: bool = False,
    config: str | None = None,
    revision: str | None = None,
    constants: Constants | None = None,
) -> DeploymentPlan:
    """How to run `model` on `card`, from its configurations alone: nothing is downloaded.

    `card` is a GPU's name or a memory such as '24GB'; `target_seconds` is of one call. With
    `allow_cache` a step cache, which changes pictures, is weighed as well. Raises UnknownModel,
    UnknownDevice or BadInput.
    """
    chosen = card_named(card)
    gpu = chosen.gpu
    requested = settings or ForecastSettings()
    resolved = resolve(model, config=config, revision=revision)
    plain = scenario_of(resolved, requested)
    _check(plain.choice.dtype, cards)
    per_hour = _price(prices, gpu)
    machine = machine_after(
        uncalibrated(gpu, constants or shipped(), host),
        None if host else calibration_of(None, gpu.name),
    )
    parallels, out = parallel_ways(plain, cards)
    rows = [
        _row(scenario, way, machine, cards, target_seconds, per_hour)
        for way in ways(resolved, gpu, plain.choice.dtype, parallels, cached=allow_cache)
        for scenario in (_scenario(plain, requested, way),)
    ]
    rows = _without_idle_tiles(rows)
    ranked = sorted(rows, key=_order)
    best = tuple(_different([row for row in ranked if row.fits]))[:BEST]
    s = plain.choice
    return DeploymentPlan(
        halftime=version(),
        model=resolved.name,
        card=card,
        gpu=gpu.name,
        cards=cards,
        gpu_memory_bytes=gpu.memory_bytes,
        width=s.width,
        height=s.height,
        frames=s.frames,
        steps=s.steps,
        batch=s.batch,
        guidance=s.guidance,
        target_seconds=target_seconds,
        best=best,
        others=tuple(row for row in ranked if row not in best),
        ruled_out=(*_ruled_out(rows, best, gpu, target_seconds), *refusals(gpu), *out),
        notes=tuple(_notes(resolved.notes, chosen.note, machine, allow_cache=allow_cache)),
    )


def _check(dtype: str, cards: int) -> None:
    if not 1 <= cards <= MOST_CARDS:
        raise BadInput(f"cards is {cards}; a plan is for 1 to {MOST_CARDS} in one machine.")
    if dtype in QUANTISED:
        raise BadInput(
            f"dtype {dtype!r} is what a plan decides: leave it out, or name fp32, fp16 or bf16 for "
            "what is not quantised."
        )


def _price(prices: Path | str | None, gpu: Gpu) -> float | None:
    """An hour of the card in the list, or None without one."""
    if prices is None:
        return None
    table = read_prices(prices)
    name = next((name for name in table if name == gpu.name or name in gpu.name), None)
    if name is None:
        raise BadInput(f"{prices} has no price of the {gpu.name}. It has: {', '.join(table)}.")
    return table[name]


def _scenario(plain: Scenario, requested: ForecastSettings, way: PlanWay) -> Scenario:
    choice = msgspec.structs.replace(
        requested,
        dtype=way.precision if way.precision in QUANTISED else requested.dtype,
        compiled=way.compiled,
        tiled=way.tiled,
    )
    return scenario_of(plain.model, choice)


def _row(
    scenario: Scenario,
    way: PlanWay,
    machine: Machine,
    cards: int,
    target_seconds: float | None,
    per_hour: float | None,
) -> PlanRow:
    works, moved = _shared(_cached(scenario.works, way), way, machine.gpu, cards)
    extra = [moved, _offloaded(scenario, works, way, machine.gpu)]
    transfer = sum(part.seconds for part in extra)

    def seconds(effects: Effects) -> float:
        return total_seconds(works, machine.gpu, machine.constants, effects) + transfer

    value = seconds(machine.effects)
    own = spread(gradient(seconds, machine.effects), machine, doubt_of(works))
    moving = math.hypot(*(part.spread * part.seconds / value for part in extra))
    factor = math.exp(Z90 * math.hypot(own, moving))
    memory = peak_bytes(scenario, way, cards)
    pictures = scenario.choice.batch
    return PlanRow(
        precision=way.precision,
        offload=way.offload,
        parallel=way.parallel,
        cache=way.cache,
        compiled=way.compiled,
        tiled=way.tiled,
        seconds=value,
        low=value / factor,
        high=value * factor,
        transfer_seconds=transfer,
        memory_bytes=memory,
        fits=memory + CONTEXT_BYTES <= machine.gpu.memory_bytes,
        meets_target=target_seconds is None or value <= target_seconds,
        per_picture=None if per_hour is None else per_hour * cards / 3600 * value / pictures,
        note=QUANTISED[way.precision].note if way.precision in QUANTISED else "",
    )


def _cached(works: tuple[StageWork, ...], way: PlanWay) -> tuple[StageWork, ...]:
    if way.cache == "none":
        return works
    return tuple(
        _with_runs(
            work,
            (
                msgspec.structs.replace(run, times=run.times * (1 - REUSED_SHARE))
                for run in work.runs
            ),
        )
        if work.stage == "denoise"
        else work
        for work in works
    )


def _with_runs(work: StageWork, runs: Iterable[ComponentRun]) -> StageWork:
    return msgspec.structs.replace(work, runs=tuple(runs))


def _shared(
    works: tuple[StageWork, ...], way: PlanWay, gpu: Gpu, cards: int
) -> tuple[tuple[StageWork, ...], transfers.Moved]:
    """The work of one card, and what the cards exchange."""
    if way.parallel == "none":
        return works, transfers.NOTHING_MOVED
    exchanged = 0.0
    out = []
    for work in works:
        if work.stage != "denoise":
            out.append(work)
            continue
        runs = []
        for run in work.runs:
            geometry = run.traced.geometry
            if way.parallel == "guidance":
                geometry = msgspec.structs.replace(geometry, batch=max(1, geometry.batch // 2))
                traced = msgspec.structs.replace(run.traced, geometry=geometry)
                runs.append(msgspec.structs.replace(run, traced=traced))
                exchanged += run.times * transfers.COLLECTIVE_SECONDS
            else:
                runs.append(msgspec.structs.replace(run, cards=cards))
                exchanged += transfers.collectives(run, gpu, cards, way.parallel).seconds
        out.append(_with_runs(work, runs))
    return tuple(out), transfers.Moved(exchanged, transfers.PARALLEL_SPREAD)


def _offloaded(
    scenario: Scenario, works: tuple[StageWork, ...], way: PlanWay, gpu: Gpu
) -> transfers.Moved:
    if way.offload == "none":
        return transfers.NOTHING_MOVED
    once = sum(component_bytes(run, way) for run in distinct(scenario))
    if way.offload == "model":
        return transfers.model_offload(once, gpu)
    every = sum(component_bytes(run, way) * run.times for work in works for run in work.runs)
    if way.offload == "group":
        return transfers.group_offload(every, gpu)
    return transfers.sequential_offload(every, gpu)


def _order(row: PlanRow) -> tuple[bool, bool, bool, float]:
    """What fits, meets the target, changes nothing between steps, and is fast, first."""
    return not row.fits, not row.meets_target, row.cache != "none", row.seconds


def _without_idle_tiles(rows: list[PlanRow]) -> list[PlanRow]:
    """Tiles cost time and a seam: they are weighed where the same way does not fit without."""
    untiled = {_way_of(row) for row in rows if not row.tiled and row.fits}
    return [row for row in rows if not (row.tiled and _way_of(row) in untiled)]


def _way_of(row: PlanRow) -> tuple[str, str, str, str, bool]:
    return row.precision, row.offload, row.parallel, row.cache, row.compiled


def _different(rows: list[PlanRow]) -> Iterator[PlanRow]:
    """The rows without those that only offload more than a faster one of the same precision."""
    listed: set[tuple[str, str, str, bool]] = set()
    for row in rows:
        key = (row.precision, row.parallel, row.cache, row.compiled)
        if key not in listed:
            listed.add(key)
            yield row


def _ruled_out(
    rows: list[PlanRow], best: tuple[PlanRow, ...], gpu: Gpu, target_seconds: float | None
) -> Iterator[PlanRefusal]:
    """Why each precision and offload that is not among the best is not."""
    kinds: dict[tuple[str, str], list[PlanRow]] = {}
    for row in rows:
        kinds.setdefault((row.precision, row.offload), []).append(row)
    listed = {(row.precision, row.offload) for row in best}
    for (precision, offload), members in kinds.items():
        if (precision, offload) in listed:
            continue
        name = f"{precision}, {'no' if offload == 'none' else offload} offload"
        fitting = [row for row in members if row.fits]
        if not fitting:
            least = min(row.memory_bytes for row in members)
            why = (
                f"needs {least / 2**30:.1f} GiB at least, beside {CONTEXT_BYTES / 2**30:.1f} "
                f"of the CUDA context; the card has {gpu.memory_bytes / 2**30:.0f}"
            )
        else:
            fastest = min(fitting, key=lambda row: row.seconds)
            late = target_seconds is not None and fastest.seconds > target_seconds
            why = f"{fastest.seconds:.3g} s at best, " + (
                f"over the target of {target_seconds:g} s"
                if late
                else f"slower than the {best[-1].seconds:.3g} s of the last of the best"
                if fastest.seconds >= best[-1].seconds
                else "and a faster one of its precision stands above"
            )
        yield PlanRefusal(what=name, why=why)


def _notes(
    of_model: tuple[str, ...], of_card: str, machine: Machine, *, allow_cache: bool
) -> Iterator[str]:
    yield from of_model
    if of_card:
        yield of_card
    yield f"seconds rest on {machine.calibrated_on}"
    yield (
        "quantised weights, fp8 and int8 products change pictures a little, and none of that is "
        "judged here: `halftime verify` does"
    )
    if allow_cache:
        yield (
            f"a step cache is planned as {REUSED_SHARE:.0%} of the steps reused: arithmetic alone, "
            "no measurement behind it"
        )
