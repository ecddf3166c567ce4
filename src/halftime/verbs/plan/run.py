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
from halftime.verbs.plan.setups import Setup, parallel_ways, refusals, setups

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
    _check_cards(cards)
    chosen = card_named(card)
    resolved = resolve(model, config=config, revision=revision)
    requested = settings or ForecastSettings()
    plain = scenario_of(resolved, requested)
    _check_precision(plain.choice.dtype)
    machine = machine_after(
        uncalibrated(chosen.gpu, constants or shipped(), host),
        None if host else calibration_of(None, chosen.gpu.name),
    )
    parallels, out = parallel_ways(plain, cards)
    per_hour = _price(prices, chosen.gpu)
    rows = [
        _row(_scenario(plain, requested, setup), setup, machine, cards, target_seconds, per_hour)
        for setup in setups(chosen.gpu, plain.choice.dtype, parallels, cached=allow_cache)
    ]
    notes = _notes(resolved.notes, chosen.note, machine, allow_cache=allow_cache)
    return msgspec.structs.replace(
        _ranked(
            _without_idle_tiles(rows), chosen.gpu, target_seconds, [*refusals(chosen.gpu), *out]
        ),
        model=resolved.name,
        card=card,
        cards=cards,
        notes=tuple(notes),
        **{name: getattr(plain.choice, name) for name in OF_THE_CALL},
    )


OF_THE_CALL = ("width", "height", "frames", "steps", "batch", "guidance")


def _check_cards(cards: int) -> None:
    if not 1 <= cards <= MOST_CARDS:
        raise BadInput(f"cards is {cards}; a plan is for 1 to {MOST_CARDS} in one machine.")


def _check_precision(dtype: str) -> None:
    if dtype in QUANTISED:
        raise BadInput(
            f"dtype {dtype!r} is what a plan decides: leave it out, or name fp32, fp16 or bf16 for "
            "what is not quantised."
        )


def _ranked(
    rows: list[PlanRow], gpu: Gpu, target_seconds: float | None, refused: list[PlanRefusal]
) -> DeploymentPlan:
    """The rows in order, without what the caller knows of the call."""
    ranked = sorted(rows, key=_order)
    best = tuple(_different([row for row in ranked if row.fits]))[:BEST]
    return DeploymentPlan(
        halftime=version(),
        gpu=gpu.name,
        gpu_memory_bytes=gpu.memory_bytes,
        target_seconds=target_seconds,
        best=best,
        others=tuple(row for row in ranked if row not in best),
        ruled_out=(*_ruled_out(rows, best, gpu, target_seconds), *refused),
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


def _scenario(plain: Scenario, requested: ForecastSettings, setup: Setup) -> Scenario:
    choice = msgspec.structs.replace(
        requested,
        dtype=setup.precision if setup.precision in QUANTISED else requested.dtype,
        compiled=setup.compiled,
        tiled=setup.tiled,
    )
    return scenario_of(plain.model, choice)


def _row(
    scenario: Scenario,
    setup: Setup,
    machine: Machine,
    cards: int,
    target_seconds: float | None,
    per_hour: float | None,
) -> PlanRow:
    works, moved = _shared(_cached(scenario.works, setup), setup, machine.gpu, cards)
    extra = [moved, _offloaded(scenario, works, setup, machine.gpu)]
    transfer = sum(part.seconds for part in extra)

    def seconds(effects: Effects) -> float:
        return total_seconds(works, machine.gpu, machine.constants, effects) + transfer

    value = seconds(machine.effects)
    own = spread(gradient(seconds, machine.effects), machine, doubt_of(works))
    moving = math.hypot(*(part.spread * part.seconds / value for part in extra))
    factor = math.exp(Z90 * math.hypot(own, moving))
    memory = peak_bytes(scenario, setup, cards)
    pictures = scenario.choice.batch
    return PlanRow(
        precision=setup.precision,
        offload=setup.offload,
        parallel=setup.parallel,
        cache=setup.cache,
        compiled=setup.compiled,
        tiled=setup.tiled,
        seconds=value,
        low=value / factor,
        high=value * factor,
        transfer_seconds=transfer,
        memory_bytes=memory,
        fits=memory + CONTEXT_BYTES <= machine.gpu.memory_bytes,
        meets_target=target_seconds is None or value <= target_seconds,
        per_picture=None if per_hour is None else per_hour * cards / 3600 * value / pictures,
        note=QUANTISED[setup.precision].note if setup.precision in QUANTISED else "",
    )


def _cached(works: tuple[StageWork, ...], setup: Setup) -> tuple[StageWork, ...]:
    if setup.cache == "none":
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
    works: tuple[StageWork, ...], setup: Setup, gpu: Gpu, cards: int
) -> tuple[tuple[StageWork, ...], transfers.Moved]:
    """The work of one card, and what the cards exchange."""
    if setup.parallel == "none":
        return works, transfers.NOTHING_MOVED
    exchanged = sum(
        _exchanged(run, setup, gpu, cards)
        for work in works
        if work.stage == "denoise"
        for run in work.runs
    )
    shared = tuple(
        _with_runs(work, (_on_one_card(run, setup, cards) for run in work.runs))
        if work.stage == "denoise"
        else work
        for work in works
    )
    return shared, transfers.Moved(exchanged, transfers.PARALLEL_SPREAD)


def _on_one_card(run: ComponentRun, setup: Setup, cards: int) -> ComponentRun:
    """What one of the cards computes of a denoiser's run."""
    if setup.parallel != "guidance":
        return msgspec.structs.replace(run, cards=cards)
    geometry = run.traced.geometry
    half = msgspec.structs.replace(geometry, batch=max(1, geometry.batch // 2))
    traced = msgspec.structs.replace(run.traced, geometry=half)
    return msgspec.structs.replace(run, traced=traced)


def _exchanged(run: ComponentRun, setup: Setup, gpu: Gpu, cards: int) -> float:
    """Seconds that the cards exchange in a denoiser's run."""
    if setup.parallel == "guidance":
        return run.times * transfers.COLLECTIVE_SECONDS
    return transfers.collectives(run, gpu, cards, setup.parallel).seconds


def _offloaded(
    scenario: Scenario, works: tuple[StageWork, ...], setup: Setup, gpu: Gpu
) -> transfers.Moved:
    if setup.offload == "none":
        return transfers.NOTHING_MOVED
    once = sum(component_bytes(run, setup) for run in distinct(scenario))
    if setup.offload == "model":
        return transfers.model_offload(once, gpu)
    every = sum(component_bytes(run, setup) * run.times for work in works for run in work.runs)
    if setup.offload == "group":
        return transfers.group_offload(every, gpu)
    return transfers.sequential_offload(every, gpu)


def _order(row: PlanRow) -> tuple[bool, bool, bool, float]:
    """What fits, meets the target, changes nothing between steps, and is fast, first."""
    return not row.fits, not row.meets_target, row.cache != "none", row.seconds


def _without_idle_tiles(rows: list[PlanRow]) -> list[PlanRow]:
    """Tiles cost time and a seam: they are weighed where the same way does not fit without."""
    fitting = {_way_of(row) for row in rows if not row.tiled and row.fits}
    return [row for row in rows if not (row.tiled and _way_of(row) in fitting)]


def _way_of(row: PlanRow) -> tuple[str, str, str, str, bool]:
    return row.precision, row.offload, row.parallel, row.cache, row.compiled


def _different(rows: list[PlanRow]) -> Iterator[PlanRow]:
    """The rows without those that only offload more than a faster one of the same precision."""
    keys: set[tuple[str, str, str, bool]] = set()
    for row in rows:
        key = (row.precision, row.parallel, row.cache, row.compiled)
        if key not in keys:
            keys.add(key)
            yield row


def _ruled_out(
    rows: list[PlanRow], best: tuple[PlanRow, ...], gpu: Gpu, target_seconds: float | None
) -> Iterator[PlanRefusal]:
    """Why each precision and offload that is not among the best is not."""
    kinds: dict[tuple[str, str], list[PlanRow]] = {}
    for row in rows:
        kinds.setdefault((row.precision, row.offload), []).append(row)
    winners = {(row.precision, row.offload) for row in best}
    for (precision, offload), members in kinds.items():
        if (precision, offload) in winners:
            continue
        subject = f"{precision}, {'no' if offload == 'none' else offload} offload"
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
        yield PlanRefusal(what=subject, why=why)


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
