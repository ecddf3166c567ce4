"""Has the cluster what the drawers need? Asked before anything is started: Ray itself would wait
for it for ever."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from halftime.base.errors import BadInput

Resources = Mapping[str, float]
_ROUNDING = 1e-6


class Need(NamedTuple):
    """What one drawer takes."""

    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """By Ray's names."""
        return {name: amount for name, amount in zip(_NAMES, self, strict=True) if amount}


_NAMES = ("CPU", "GPU")


def check_resources(
    need: Need, drawers: int, nodes: Sequence[Resources], available: Resources
) -> None:
    """Raises BadInput where so many drawers do not fit: on no node, on all together, or beside what
    runs already. `nodes` are their totals; `available` is what is free in the cluster."""
    fit = sum(_fit(need, node) for node in nodes)
    if fit < drawers:
        free = ", ".join(_words(node) for node in nodes) or "none"
        raise BadInput(
            f"{drawers} drawers of {_words(need.resources)} each do not fit on this cluster: "
            f"{fit} of them would. Its nodes have: {free}. {_REMEDY}"
        )
    missing = {
        name: drawers * amount - available.get(name, 0.0)
        for name, amount in need.resources.items()
        if drawers * amount > available.get(name, 0.0) + _ROUNDING
    }
    if missing:
        raise BadInput(
            f"{drawers} drawers of {_words(need.resources)} each do not fit beside what runs on "
            f"this cluster: {_words(missing)} are missing; {_words(available)} are free. {_REMEDY}"
        )


_REMEDY = "Ask for fewer --replicas, or for less with --replica-cpus and --replica-gpus."


def _fit(need: Need, node: Resources) -> int:
    """How many drawers one node could hold."""
    if not need.resources:
        return 2**31
    return min(
        math.floor(node.get(name, 0.0) / amount + _ROUNDING)
        for name, amount in need.resources.items()
    )


def _words(resources: Resources) -> str:
    """'2 CPUs, 1 GPU'."""
    parts = [
        f"{amount:g} {name}{'' if amount == 1 else 's'}"
        for name in _NAMES
        if (amount := resources.get(name, 0.0))
    ]
    return " and ".join(parts) or "no CPUs"


def need_of(
    device: str | None, workers: int, cpus: float | None, gpus: float | None, cluster: Resources
) -> Need:
    """What a drawer takes where it is not said: a GPU for each of its workers where it draws on
    GPUs, else a core."""
    on_gpus = (device or "").startswith("cuda") or (device is None and cluster.get("GPU", 0) >= 1)
    return Need(
        cpus=1.0 if cpus is None else cpus,
        gpus=(float(workers) if on_gpus else 0.0) if gpus is None else gpus,
    )
