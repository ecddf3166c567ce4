"""Where a pipeline runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halftime.base.errors import UnknownDevice

if TYPE_CHECKING:
    import torch


def checked_device(name: str) -> torch.device:
    """The torch device of that name. Raises UnknownDevice, naming those that exist."""
    import torch

    available = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownDevice(f"device {name!r} is not a torch device. Here are: {', '.join(available)}.") from error
    if device.type == "cuda" and device.index is None and len(available) > 1:
        device = torch.device("cuda", 0)
    if str(device) not in available:
        raise UnknownDevice(f"device {name!r} does not exist here. Here are: {', '.join(available)}.")
    return device
