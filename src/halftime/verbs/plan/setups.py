"""The ways to run a call that a plan weighs, and why some are no ways at all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product, starmap
from typing import NamedTuple

from halftime.records.gpus import Gpu
from halftime.records.plan import PlanRefusal
from halftime.verbs.forecast.predict import operations_of
from halftime.verbs.forecast.quantised import QUANTISED, runs_on
from halftime.verbs.forecast.scenario import Scenario

OFFLOADS = ("none", "model", "group", "sequential")


class Setup(NamedTuple):
    """One way to run a call."""

    precision: str
    offload: str = "none"
    parallel: str = "none"
    compiled: bool = False
    tiled: bool = False
    cache: str = "none"


def setups(
    gpu: Gpu, precision: str, parallels: tuple[str, ...], *, cached: bool
) -> Iterator[Setup]:
    """Every way that could be run; `precision` is the model's own."""
    precisions = [precision, *(name for name in QUANTISED if runs_on(gpu, name))]
    caches = ("none", "step-cache") if cached else ("none",)
    ways = product(precisions, OFFLOADS, parallels, (False, True), (False, True), caches)
    yield from filter(is_run, starmap(Setup, ways))


def is_run(setup: Setup) -> bool:
    """Whether diffusers and torchao run that combination, as far as halftime can say."""
    if (
        setup.precision in QUANTISED
        and QUANTISED[setup.precision].multiplies
        and not setup.compiled
    ):
        return False  # eager quantised products are slower than 16-bit ones
    if setup.precision == "nf4" and setup.offload != "none":
        return False  # bitsandbytes keeps its weights on the card
    if setup.offload in ("group", "sequential") and (setup.compiled or setup.parallel != "none"):
        return False
    return not (setup.offload == "model" and setup.parallel != "none")


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
        what="nf4 with offload",
        why="bitsandbytes keeps its weights on the card, so that nothing is gained",
    )
    yield PlanRefusal(
        what="compile with group or sequential offload",
        why="no published row says what graph breaks at every layer cost",
    )


def parallel_ways(scenario: Scenario, cards: int) -> tuple[tuple[str, ...], list[PlanRefusal]]:
    """How several cards can share one call, and why not otherwise."""
    if cards == 1:
        return ("none",), []
    shared, out = ["none"], []
    if scenario.choice.guidance and cards == 2:
        shared.append("guidance")
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
        shared.append("ring")
        if heads % cards == 0:
            shared.append("ulysses")
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
    return tuple(shared), out


def _heads(scenario: Scenario) -> int | None:
    """Attention heads of the transformer, or None for a UNet."""
    run = next(run for work in scenario.works for run in work.runs if run.traced.role == "denoiser")
    if run.traced.class_name.startswith(("UNet", "ControlNet")):
        return None
    rows = run.traced.geometry.batch
    attention = [group for group in operations_of(run)[0].eager if group.kind == "attention"]
    return max((group.products // rows for group in attention), default=None)
