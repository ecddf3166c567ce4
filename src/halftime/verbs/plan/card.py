"""`--card`: a GPU by name, or any card of so much memory."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from halftime.base.errors import BadInput
from halftime.records.gpus import Gpu, all_gpus, gpu_named
from halftime.verbs.forecast.constants import UNMEASURED, shipped

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*G(?:i?B)?", re.IGNORECASE)


class Card(NamedTuple):
    """What to plan for: the GPU whose rates are used, with the memory that was asked for."""

    gpu: Gpu
    note: str = ""


def card_named(text: str) -> Card:
    """The card. Raises UnknownDevice or BadInput.

    Of a card known by its memory alone, rates are those of the GPU with that memory that most is
    measured of; of a size that no GPU has, of the one with the nearest memory above. Cards whose
    maker nobody has measured are taken where no other is as large.
    """
    size = _MEMORY.fullmatch(text.strip())
    if size is None:
        return Card(gpu_named(text))
    memory = float(size[1]) * 2**30
    above = [gpu for gpu in all_gpus() if gpu.memory_bytes >= memory]
    if not above or memory <= 0:
        largest = max(gpu.memory_bytes for gpu in all_gpus()) / 2**30
        raise BadInput(
            f"--card {text!r}: the table's cards have up to {largest:g} GB. Name a GPU of "
            "`halftime forecast gpus`, or a size up to that."
        )
    above = [gpu for gpu in above if gpu.architecture not in UNMEASURED] or above
    nearest = min(gpu.memory_bytes for gpu in above)
    fitted = shipped().gpus
    gpu = max(
        (gpu for gpu in above if gpu.memory_bytes == nearest),
        key=lambda gpu: fitted[gpu.name].rows if gpu.name in fitted else 0,
    )
    return Card(
        msgspec.structs.replace(gpu, memory_bytes=memory),
        f"{text} says how much fits; seconds are those of a {gpu.name}: name the card for its own",
    )
