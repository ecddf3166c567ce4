"""What is counted in one short call of a side's pipeline: no clock, so no noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import torch

from halftime.base.errors import HalftimeError
from halftime.pipeline.components import modules_of
from halftime.pipeline.device import device_of
from halftime.records import Workload
from halftime.upstream import pytorch
from halftime.verbs.audit.run import audit_loaded
from halftime.verbs.profile import compilation, probe
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.recorder import Recorder

if TYPE_CHECKING:
    from halftime.pipeline.load import LoadedPipeline

WAITS, WAITS_OUTSIDE = "waits in the loop", "waits outside the loop"
OPERATIONS, FLOPS, BYTES, MEMORY = "operations", "FLOPs", "bytes touched", "peak memory"
GRAPHS, BREAKS = "compiled graphs", "graph breaks"
_STEPS = 4  # the first and the last step may be others


@dataclass
class Counts:
    """Counter -> value, what stands behind it, and why it was not counted."""

    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def count(loaded: LoadedPipeline, workload: Workload) -> Counts:
    """All counters that this pipeline and device allow."""
    counts = Counts()
    _compilation(counts)  # first: the other counters call in ways that compile again
    short = msgspec.structs.replace(workload, steps=min(workload.steps, _STEPS))
    compiled = [n for n, m in modules_of(loaded.pipeline).items() if pytorch.is_compiled(m)]
    hidden = f"{', '.join(compiled)} is compiled, and what it launches is not seen"
    for names, counter in (
        ((OPERATIONS, BYTES), _operations),
        ((FLOPS,), _flops),
        ((WAITS, WAITS_OUTSIDE), _waits),
    ):
        if compiled:
            counts.skipped |= dict.fromkeys(names, hidden)
        else:
            _try(counter, names, loaded, short, counts)
    _try(_memory, (MEMORY,), loaded, short, counts)
    return counts


Counting = Callable[["LoadedPipeline", Workload, Counts], None]


def _try(
    counter: Counting,
    names: tuple[str, ...],
    loaded: LoadedPipeline,
    workload: Workload,
    counts: Counts,
) -> None:
    try:
        counter(loaded, workload, counts)
    except HalftimeError as error:
        counts.skipped |= dict.fromkeys(names, str(error))


def _compilation(counts: Counts) -> None:
    counters = compilation.look()
    counts.values |= {GRAPHS: counters.graphs, BREAKS: sum(counters.breaks.values())}
    counts.details[BREAKS] = tuple(
        next(iter(reason.strip().splitlines()), reason) for reason in counters.breaks
    )


class OperationCounter(pytorch.TorchDispatchMode):
    """Counts operations and the bytes of the tensors that go in and come out, by their shapes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            leaves = pytorch.tree_leaves((args, kwargs, result))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _operations(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    by_stage: Counter[str] = Counter()
    counter, before = OperationCounter(), 0

    def observe(home: object) -> None:
        nonlocal before
        by_stage[getattr(home, "stage", "between stages")] += counter.operations - before
        before = counter.operations

    with counter:
        observed_call(loaded.pipeline, workload, Recorder(HostClock(), observe=observe))
    counts.values |= {OPERATIONS: counter.operations, BYTES: counter.bytes}
    counts.details[OPERATIONS] = tuple(f"{stage}: {n:,}" for stage, n in by_stage.items() if n)


def _flops(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    values = probe.flops(loaded.pipeline, workload)
    counts.values[FLOPS] = sum(flops for flops, _ in values.values())


def _memory(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    if device_of(loaded.pipeline).type not in ("cuda", "xpu"):
        counts.skipped[MEMORY] = "the resident memory of a process is not exact enough to gate on"
        return
    stages = probe.memory(loaded.pipeline, workload).stages
    counts.values[MEMORY] = max((stage.peak_bytes or 0 for stage in stages), default=0)


def _waits(loaded: LoadedPipeline, workload: Workload, counts: Counts) -> None:
    if device_of(loaded.pipeline).type != "cpu":
        reason = "audit looks at a pipeline on the CPU: gate once more with --device cpu"
        counts.skipped |= dict.fromkeys((WAITS, WAITS_OUTSIDE), reason)
        return
    audit = audit_loaded(loaded, workload)
    outside = [site for site in audit.sites if not site.in_loop]
    counts.values |= {WAITS: audit.in_loop_total, WAITS_OUTSIDE: sum(s.count for s in outside)}
    for name, inside in ((WAITS, True), (WAITS_OUTSIDE, False)):
        counts.details[name] = tuple(
            f"{site.file}:{site.line} {site.count} times ({site.kind})"
            for site in audit.sites
            if site.in_loop is inside
        )
