"""A pipeline that does not fit into `--memory` is first made to fit; then `tune` looks for speed.

As it is, if that fits; else decoding in parts; else with its weights on the host, moved as little
as fits. Of what fits the fastest is taken, and everything else is tried on top of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from halftime.base import units
from halftime.base.errors import BadInput, first_line
from halftime.fix.guard import why_not
from halftime.fix.table import FIXES
from halftime.pipeline.device import device_of
from halftime.pipeline.state import state_of
from halftime.records.fixes import FixName
from halftime.records.recipe import Choice, Rung
from halftime.upstream import pytorch
from halftime.verbs.tune.bench import Bench
from halftime.verbs.tune.candidates import described
from halftime.verbs.tune.decide import Choices
from halftime.verbs.tune.memory import MemoryLimit, weight_bytes

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

HOST = torch.device("cpu")
# From what moves least on.
_RESIDENCES = tuple(
    (Choice(name="offload", settings={"kind": kind}),) for kind in ("model", "group", "leaf")
)
_IN_PARTS: tuple[FixName, ...] = ("vae-slicing", "vae-tiling")


class Fitting(NamedTuple):
    """A plan that was looked at for its memory: what a call of it took, and why it does not fit; ''
    where it does."""

    plan: Choices
    peak: int | None
    seconds: float
    why_not: str

    def outcome(self) -> str:
        """What came of it, in words."""
        if self.why_not:
            return self.why_not
        return f"fits: takes {units.size(self.peak)}, {units.seconds(self.seconds)} a call"

    def rung(self, chosen: bool) -> Rung | None:
        """A line of the ladder; the pipeline as it is has none."""
        if not self.plan:
            return None
        choice = self.plan[-1]
        return Rung(
            fix=choice.name,
            level=FIXES[choice.name].level,
            settings=choice.settings,
            peak_bytes=self.peak,
            kept=chosen,
            why=self.outcome(),
        )


Look = Callable[[Choices], Fitting]


def fit(
    bench: Bench,
    memory: MemoryLimit,
    *,
    pictures: int,
    approximate: bool,
    before: Choices | None = None,
) -> tuple[Fitting, list[Fitting]]:
    """The plan to start from, and all that was looked at. Raises BadInput where nothing fits.

    A run that goes on starts from the plan of `before`, by which it measured everything so far.

    The pipeline is left on its device where it fits there, and else on the host.
    """
    parts = in_parts(bench.pipeline, memory.device, pictures, approximate)
    looks = first_that_fits(parts, lambda plan: _on_device(bench, memory, plan))
    if looks[-1].why_not and memory.device != HOST:
        bench.close()
        bench.pipeline.to(HOST)
        for residence in residences(bench.pipeline):
            plans = [(*residence, *switches) for switches in parts]
            looks += first_that_fits(plans, lambda plan: look_at(bench, memory, plan))
    same = [look for look in looks if look.plan == before and not look.why_not]
    return fastest(same or looks, memory), looks


def _on_device(bench: Bench, memory: MemoryLimit, plan: Choices) -> Fitting:
    """A plan without a part on the host."""
    weights = weight_bytes(bench.pipeline, device_of(bench.pipeline).type)
    if weights > memory.limit:
        words = f"its weights alone take {units.size(weights)}"
        return Fitting(plan, None, 0.0, words)
    try:
        if device_of(bench.pipeline).type != memory.device.type:
            bench.pipeline.to(memory.device)
    except Exception as error:
        return _failed(plan, error)
    return look_at(bench, memory, plan)


def look_at(bench: Bench, memory: MemoryLimit, plan: Choices) -> Fitting:
    """Put a plan on, and draw with it."""
    bench.keep_only()
    try:
        live = bench.at(plan)
    except Exception as error:  # a fix may fail in any way
        return _failed(plan, error)
    return Fitting(plan, live.peak_bytes, live.call_seconds, memory.too_large(live.peak_bytes))


def _failed(plan: Choices, error: Exception) -> Fitting:
    words = (
        "the device ran out of memory"
        if pytorch.is_out_of_memory(error)
        else f"{type(error).__name__}: {first_line(error)}"
    )
    return Fitting(plan, None, 0.0, words)


def in_parts(
    pipeline: DiffusionPipeline, device: torch.device, pictures: int, approximate: bool
) -> list[Choices]:
    """What decodes in parts, from nothing on: one picture of a batch at a time, then tiles where
    approximate fixes are allowed."""
    state = state_of(pipeline)
    useful = {"vae-slicing": pictures > 1, "vae-tiling": approximate}
    plans: list[Choices] = [()]
    for name in _IN_PARTS:
        if useful[name] and why_not(FIXES[name], pipeline, {}, state, device) is None:
            plans.append((*plans[-1], Choice(name=name)))
    return plans


def residences(pipeline: DiffusionPipeline) -> list[Choices]:
    """The ways to keep its weights on the host that the pipeline can take."""
    fix, state = FIXES["offload"], state_of(pipeline)
    return [
        plan
        for plan in _RESIDENCES
        if why_not(fix, pipeline, fix.with_defaults(plan[0].settings), state) is None
    ]


def first_that_fits(plans: Sequence[Choices], look: Look) -> list[Fitting]:
    """Looked at in order, until one fits."""
    looks: list[Fitting] = []
    for plan in plans:
        looks.append(look(plan))
        if not looks[-1].why_not:
            break
    return looks


def fastest(looks: Sequence[Fitting], memory: MemoryLimit) -> Fitting:
    """The fastest that fits. Raises BadInput where none does, with the smallest peak."""
    fitting = [look for look in looks if not look.why_not]
    if fitting:
        return min(fitting, key=lambda look: look.seconds)
    peaks = {look.peak: look for look in looks if look.peak is not None}
    reached = "; ".join(f"{plan_words(look.plan)}: {look.why_not}" for look in looks)
    if peaks:
        smallest = min(peaks)
        reached = (
            f"the smallest peak is {units.size(smallest)}, of {plan_words(peaks[smallest].plan)}"
        )
    raise BadInput(
        f"nothing fits into --memory {units.size(memory.limit)}: {reached}. Allow more, draw "
        "smaller pictures, load it in fewer bits (--dtype bfloat16, or quantised), or let it "
        "decode in tiles (--allow approximate)."
    )


def plan_words(plan: Choices) -> str:
    """'offload (kind: model) + vae-tiling'."""
    return " + ".join(map(described, plan)) or "the pipeline as it is"


@contextmanager
def brought_back(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Afterwards it is on the device that it was on."""
    own = device_of(pipeline)
    try:
        yield
    finally:
        if device_of(pipeline) != own:
            pipeline.to(own)
