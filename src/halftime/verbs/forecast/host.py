"""The host's side: what Python and the dispatcher take to issue a forward, a step and a call."""

from __future__ import annotations

import math
from typing import NamedTuple

from halftime.base.errors import BadInput
from halftime.records.gpus import Gpu
from halftime.verbs.forecast.ops import StageTrace

CONSUMER = ("GTX", "TITAN", "RTX 2", "RTX 3", "RTX 40", "RTX 50", "RX", "Arc")
# Class of CPU -> the constant that its cost for an operation has over a server's of before 2022
# (the cores that stand beside a V100, a T4 or an A100), and which CPUs are meant.
CLASSES: dict[str, tuple[str | None, str]] = {
    "server": (None, "server cores of before 2022: Broadwell to Ice Lake, EPYC Rome and Milan"),
    "modern": ("modern", "server cores of 2022 and later: Sapphire Rapids, EPYC Genoa, Grace"),
    "desktop": ("desktop", "desktop cores: Ryzen, Core"),
}
MODERN = (
    "hopper",
    "blackwell",
    "cdna3",
    "cdna4",
    "xe-hpc",
)  # architectures that were sold beside modern servers
# Of log(cost): of a class that was named, and of a number that was measured on the machine itself.
NAMED_SPREAD, MEASURED_SPREAD = 0.25, 0.10

# Against one dispatched operation that launches a kernel: one that only makes a view, and one
# Python module's call.
VIEW, MODULE = 0.3, 0.4
# A compiled module replays a captured graph; a kernel of it costs the host this share of an eager
# operation.
REPLAYED = 0.02
# Of a step's own work: the scheduler's arithmetic, and looking up where in the schedule it stands.
SCHEDULER_SHARE, INDEX_SHARE = 0.5, 0.1


class Host(NamedTuple):
    """What `--host` says: the logarithm of its cost over that of the GPU's usual host."""

    name: str
    effect: float
    spread: float


def class_of(gpu: Gpu) -> str:
    """The CPUs that usually stand beside a GPU."""
    if gpu.name.startswith(CONSUMER):
        return "desktop"
    return "modern" if gpu.architecture in MODERN else "server"


def class_factor(name: str, constants: dict[str, float]) -> float:
    """The cost of an operation on a class of CPU over that on an older server's."""
    constant, _ = CLASSES[name]
    return constants[constant] if constant else 1.0


def host_named(text: str, gpu: Gpu, constants: dict[str, float]) -> Host:
    """A class of CPUs, or microseconds of one eager operation, measured: '7us'. Raises BadInput."""
    usual = class_factor(class_of(gpu), constants)
    if text in CLASSES:
        factor = class_factor(text, constants)
        return Host(text, math.log(factor / usual), NAMED_SPREAD)
    try:
        microseconds = float(text.removesuffix("us"))
    except ValueError:
        microseconds = 0.0
    if not 0 < microseconds < 1000:
        raise BadInput(
            f"--host {text!r} is neither a class of CPUs ({', '.join(CLASSES)}) nor the "
            "microseconds of one eager operation, for example 7us."
        )
    effect = math.log(microseconds * 1e-6 / (constants["dispatch"] * usual))
    return Host(f"{microseconds:g} us an operation", effect, MEASURED_SPREAD)


def operations(trace: StageTrace, *, compiled: bool) -> float:
    """The host's work for one forward, in dispatched operations."""
    if compiled:
        return REPLAYED * sum(group.kernels * group.count for group in trace.compiled)
    return trace.dispatched + VIEW * trace.views + MODULE * trace.modules
