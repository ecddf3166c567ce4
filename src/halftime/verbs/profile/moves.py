"""Which weights offloading hooks move in a call: when, how many bytes, and how long it takes.

Each move is waited for, before and after, in a call that is not timed: hooks that prefetch hide a
part of theirs behind what computes, and how long a move takes by itself shows only so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from halftime.pipeline.change import patched
from halftime.pipeline.components import modules_of
from halftime.pipeline.device import device_of, synchronize
from halftime.pipeline.state import Offloading, offloading_of
from halftime.records import WeightMoves, Workload
from halftime.upstream import hugging_face
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

BETWEEN = "between stages"


class Move(NamedTuple):
    """One move of a component's weights, or of a part of them."""

    component: str
    stage: str
    step: int | None  # of the loop, where it happened in one
    to_device: bool
    bytes: int
    seconds: float
    ahead: bool


def weight_moves(
    pipeline: DiffusionPipeline, workload: Workload, further: Mapping[str, object] | None = None
) -> tuple[WeightMoves, ...]:
    """What hooks move in one whole call; nothing where there are none."""
    hooked = offloading_of(pipeline)
    if not {*hooked.values()} - {"device map"}:
        return ()
    recorder = Recorder(HostClock())
    moves: list[Move] = []
    device = device_of(pipeline)
    with moves_watched(modules_of(pipeline), device, recorder, moves.append):
        observed_call(pipeline, workload, recorder, further)
    return summed(moves, hooked)


@contextmanager
def moves_watched(
    components: Mapping[str, nn.Module],
    device: torch.device,
    recorder: Recorder,
    report: Callable[[Move], None],
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[None]:
    """Report each move to or from the device within the block."""
    names = {id(part): name for name, module in components.items() for part in module.modules()}
    within: list[float] = []  # of the moves that are open: seconds of those inside them

    def watching(mover: hugging_face.Mover) -> Callable[..., object]:
        method = getattr(mover.holder, mover.method)

        def watched(*args: object, **kwargs: object) -> object:
            governed = mover.governed(*args, **kwargs)
            before = _places(governed.weights)
            synchronize(device)
            begin = now()
            within.append(0.0)
            try:
                return method(*args, **kwargs)
            finally:
                synchronize(device)
                seconds, inner = now() - begin, within.pop()
                if within:
                    within[-1] += seconds
                moved = _moved(before, _places(mover.governed(*args, **kwargs).weights), device)
                name = names.get(id(governed.module))
                for to_device, size in moved.items():
                    if name is not None:
                        place, step = recorder.place, recorder.step
                        report(
                            Move(
                                name,
                                place.stage if place else BETWEEN,
                                step,
                                to_device,
                                size,
                                seconds - inner,
                                governed.ahead,
                            )
                        )

        return watched

    with ExitStack() as undo:
        for mover in hugging_face.movers():
            undo.enter_context(patched(mover.holder, mover.method, watching(mover)))
        yield


_Places = dict[object, tuple[str, int]]


def _places(weights: Mapping[object, Tensor]) -> _Places:
    return {key: (tensor.device.type, tensor.nbytes) for key, tensor in weights.items()}


def _moved(before: _Places, after: _Places, device: torch.device) -> dict[bool, int]:
    """Whether to the device -> the bytes of what was elsewhere before."""
    moved: dict[bool, int] = defaultdict(int)
    for key, (there, size) in after.items():
        origin = before.get(key, (there, 0))[0]
        if origin != there:
            moved[there == device.type] += size
    return moved


def summed(moves: Iterable[Move], hooked: Mapping[str, Offloading]) -> tuple[WeightMoves, ...]:
    """By component, stage and direction, in the order in which they first happened."""
    groups: dict[tuple[str, str, bool], list[Move]] = defaultdict(list)
    for move in moves:
        groups[move.component, move.stage, move.to_device].append(move)
    return tuple(
        WeightMoves(
            component=component,
            stage=stage,
            to_device=to_device,
            how=hooked.get(component, "model"),
            count=len(group),
            steps=len({move.step for move in group if move.step is not None}),
            bytes=sum(move.bytes for move in group),
            seconds=sum(move.seconds for move in group),
            ahead=any(move.ahead for move in group),
        )
        for (component, stage, to_device), group in groups.items()
    )
