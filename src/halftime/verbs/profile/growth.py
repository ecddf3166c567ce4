"""Memory that grows from call to call: how much, and the stage that makes what stays."""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image

from halftime.base.stats import median
from halftime.records import MemoryGrowth, Workload
from halftime.records.stages import Place
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.probe import OUTSIDE, short
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

WORTH_SAYING = 256 * 2**10  # bytes a call
_FEWEST_CALLS = 3


class Holding(NamedTuple):
    """What is alive: a tensor's storage, or a picture."""

    kind: str
    bytes: int


def held_bytes() -> int:
    """What tensors and pictures hold in this process, on every device."""
    gc.collect()
    return sum(holding.bytes for holding in _alive().values())


def growth_per_call(readings: Sequence[int]) -> int:
    """Bytes, where each call left more than the one before and it is worth a word; else 0."""
    steps = [after - before for before, after in pairwise(readings)]
    if len(readings) < _FEWEST_CALLS or min(steps) <= 0:
        return 0
    typical = int(median(steps))
    return typical if typical >= WORTH_SAYING else 0


def left_behind(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> tuple[MemoryGrowth, ...]:
    """What a short call leaves behind, by the stage in which it came up, the most first.

    Looks at everything new that is alive at each boundary of a stage, so it is slow: for where
    memory is known to grow.
    """
    born: dict[object, str] = {}
    gc.collect()
    before = {*_alive()}
    seen: set[object] = set()

    def observe(place: Place | None) -> None:
        nonlocal seen
        alive = {*_alive()}
        born.update(dict.fromkeys(alive - seen, place.stage if place else OUTSIDE))
        seen = alive

    gc.freeze()  # what is there already need not be looked at, again and again
    try:
        observed_call(pipeline, short(workload), Recorder(HostClock(), observe=observe), further)
        gc.collect()
        left = {key: holding for key, holding in _alive().items() if key not in before}
    finally:
        gc.unfreeze()
    return _summed((born.get(key, OUTSIDE), holding) for key, holding in left.items())


def _summed(left: Iterator[tuple[str, Holding]]) -> tuple[MemoryGrowth, ...]:
    sizes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for stage, holding in left:
        sizes[stage, holding.kind].append(holding.bytes)
    rows = [
        MemoryGrowth(stage=stage, kind=kind, count=len(each), bytes=sum(each))
        for (stage, kind), each in sizes.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _alive() -> dict[object, Holding]:
    """By what tells them apart while they live; views of one storage are one."""
    alive: dict[object, Holding] = {}
    for thing in gc.get_objects():
        # by the type itself: a lazy module's __class__ would import it
        if issubclass(type(thing), torch.Tensor):
            # storages that are none: of sparse and of wrapped tensors
            with contextlib.suppress(RuntimeError, NotImplementedError, AttributeError):
                alive.update(_of_tensor(thing))
        elif issubclass(type(thing), Image.Image):
            width, height = thing.size
            size = width * height * len(thing.getbands())
            alive[id(thing)] = Holding(f"picture {width}x{height}", size)
    return alive


def _of_tensor(tensor: torch.Tensor) -> dict[object, Holding]:
    storage = tensor.untyped_storage()
    if tensor.device.type == "meta" or not storage.nbytes():
        return {}
    shape = "x".join(map(str, tensor.shape)) or "of one number"
    name = str(tensor.dtype).removeprefix("torch.")
    return {
        (storage.device, storage.data_ptr()): Holding(f"{name} tensor {shape}", storage.nbytes())
    }
