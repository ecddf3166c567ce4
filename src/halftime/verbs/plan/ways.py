"""The ways to run a call that a plan weighs, and why some are no ways at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from halftime.records.gpus import Gpu
from halftime.records.plan import PlanRefusal
from halftime.verbs.forecast.models import Model
from halftime.verbs.forecast.predict import operations_of
from halftime.verbs.forecast.quantised import QUANTISED, runs_on
from halftime.verbs.forecast.scenario import Scenario

OFFLOADS = ("none", "model", "group", "sequential")


class PlanWay(NamedTuple):
    """One way to run a call."""

    precision: str
    offload: str = "none"
    parallel: str = "none"
    compiled: bool = False
    tiled: bool = False
    cache: str = "none"


def ways(
    model: Model, gpu: Gpu, precision: str, parallels: tuple[str, ...], *, cached: bool
) -> Iterator[PlanWay]:
    """Every way that could be run; `precision` is the model's own."""
    precisions = [precision, *(name for name in QUANTISED if runs_on(gpu, name))]
    for name in precisions:
        for offload in OFFLOADS:
            for parallel in parallels:
                for compiled in (False, True):
                    for tiled in (False, True):
                        for cache in ("none", "step-cache") if cached else ("none",):
                            way = PlanWay(name, offload, parallel, compiled, tiled, cache)
                            if is_a_way(way):
                                yield way


def is_a_way(way: PlanWay) -> bool:
    """Whether diffusers and torchao run that combination, as far as halftime can say."""
    if way.precision in QUANTISED and QUANTISED[way.precision].multiplies and not way.compiled:
        return False  # eager quantised products are slower than 16-bit ones
    if way.offload in ("group", "sequential") and (way.compiled or way.parallel != "none"):
        return False
    return not (way.offload == "model" and way.parallel != "none")


def refusals(gpu: Gpu) -> Iterator[PlanRefusal]:
    """Kinds of ways that the card or halftime rules out."""
    for name, kind in QUANTISED.items():
        if not runs_on(gpu, name):
            yield PlanRefusal(
                what=name, why=f"the {gpu.name} multiplies nothing in {kind.multiplies}"
            )
    yield PlanRefusal(
        what="eager fp8, int8 and fp4 products",
        why="slower than 16-bit ones where they were measured: they are planned compiled",
    )
    yield PlanRefusal(
        what="compile with group or sequential offload",
        why="no published row says what graph breaks at every layer cost",
    )


def parallel_ways(scenario: Scenario, cards: int) -> tuple[tuple[str, ...], list[PlanRefusal]]:
    """How several cards can share one call, and why not otherwise."""
    if cards == 1:
        return ("none",), []
    ways_found, out = ["none"], []
    if scenario.choice.guidance and cards == 2:
        ways_found.append("guidance")
    else:
        why = (
            "guidance has two halves: it takes two cards"
            if scenario.choice.guidance
            else f"{scenario.model.name} runs without classifier-free guidance: there are no halves"
        )
        out.append(PlanRefusal(what="guidance parallelism", why=why))
    heads = _heads(scenario)
    if heads is None:
        out.append(
            PlanRefusal(
                what="sequence parallelism", why="diffusers shards transformers, and this is a UNet"
            )
        )
    else:
        ways_found.append("ring")
        if heads % cards == 0:
            ways_found.append("ulysses")
        else:
            out.append(
                PlanRefusal(
                    what="ulysses", why=f"{heads} attention heads cannot be shared by {cards} cards"
                )
            )
    out.append(
        PlanRefusal(
            what="a VAE on several cards",
            why="no public row to set it against: the decode is planned on one",
        )
    )
    return tuple(ways_found), out


def _heads(scenario: Scenario) -> int | None:
    """Attention heads of the transformer, or None for a UNet."""
    run = next(run for work in scenario.works for run in work.runs if _is_denoiser(run.traced.role))
    if run.traced.class_name.startswith(("UNet", "ControlNet")):
        return None
    rows = run.traced.geometry.batch
    attention = [group for group in operations_of(run)[0].eager if group.kind == "attention"]
    return max((group.products // rows for group in attention), default=None)


def _is_denoiser(role: str) -> bool:
    return role == "denoiser"
