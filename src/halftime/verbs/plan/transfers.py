"""What moves between cards and host: rates and their spreads, and the seconds of each way."""

from __future__ import annotations

from typing import NamedTuple

from halftime.records.gpus import Gpu
from halftime.verbs.forecast.host import CONSUMER, MODERN
from halftime.verbs.forecast.predict import ComponentRun, operations_of


class Moved(NamedTuple):
    """Seconds that a transfer adds, and the spread of their logarithm."""

    seconds: float
    spread: float


NOTHING_MOVED = Moved(0.0, 0.0)
# Bytes a second on PCIe 4.0 x16. Pageable: what published calls of FLUX.1 under model offload took
# more (8 s for 34 GB in and out); pinned: what two published rows of group offload took more a
# step, none of it hidden behind the arithmetic; sequential: pageable, one layer at a time, a prior.
PAGEABLE, PINNED, LAYER_BY_LAYER = 8e9, 20e9, 4e9
PAGEABLE_SPREAD, PINNED_SPREAD, LAYER_SPREAD = 0.4, 0.25, 0.5
# Of one direction between two cards, of the datasheet's rate for both.
_NVLINK: dict[str, float] = {
    "V100-SXM2": 150e9,
    "A100-40GB": 300e9,
    "A100-80GB": 300e9,
    "H100-SXM": 450e9,
    "H200": 450e9,
    "H20": 450e9,
    "B200": 900e9,
}
LINK_SHARE = 0.7  # of the datasheet that a collective reaches
BETWEEN_CARDS = 12e9  # through PCIe 4.0 and the host
COLLECTIVE_SECONDS = 30e-6  # a collective takes at least
PARALLEL_SPREAD = 0.25  # no measured row stands behind the collectives


def generation(gpu: Gpu) -> float:
    """The rate of the card's PCIe over that of 4.0."""
    if gpu.architecture in ("pascal", "volta", "turing"):
        return 0.5
    return 1.8 if gpu.architecture in MODERN else 1.0


def between_cards(gpu: Gpu) -> float:
    """Bytes a second from one card to another."""
    if gpu.name in _NVLINK and not gpu.name.startswith(CONSUMER):
        return _NVLINK[gpu.name] * LINK_SHARE
    return BETWEEN_CARDS * generation(gpu)


def model_offload(weights: float, gpu: Gpu) -> Moved:
    """All weights to the card and back, once a call."""
    return Moved(2 * weights / (PAGEABLE * generation(gpu)), PAGEABLE_SPREAD)


def group_offload(weights_each_forward: float, gpu: Gpu) -> Moved:
    """All weights to the card in every forward, from pinned memory."""
    return Moved(weights_each_forward / (PINNED * generation(gpu)), PINNED_SPREAD)


def sequential_offload(weights_each_forward: float, gpu: Gpu) -> Moved:
    """All weights to the card in every forward, layer by layer, while the card waits."""
    return Moved(weights_each_forward / (LAYER_BY_LAYER * generation(gpu)), LAYER_SPREAD)


def collectives(run: ComponentRun, gpu: Gpu, cards: int, exchange: str) -> Moved:
    """What sequence parallelism exchanges in all steps: of Ulysses four all-to-alls an attention
    (queries, keys, values, result), of a ring the keys and values of every other card."""
    seconds = 0.0
    for group in operations_of(run)[0].eager:
        if group.kind != "attention":
            continue
        tensor = group.products * group.m * group.k * group.element
        if exchange == "ulysses":
            bytes_out, times = 4 * tensor * (cards - 1) / cards**2, 4
        else:
            bytes_out, times = 2 * tensor * (cards - 1) / cards, cards - 1
        seconds += group.count * (bytes_out / between_cards(gpu) + times * COLLECTIVE_SECONDS)
    return Moved(seconds * run.times, PARALLEL_SPREAD)
