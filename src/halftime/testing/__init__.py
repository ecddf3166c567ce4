"""Public fakes for tests of your code: pipelines without weights, a clock without waiting, and
proxies with planted faults.

Each is imported when it is asked for: the proxies need no torch, the pipelines no HTTP.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halftime.testing.faults import FAULTS, PlantedFault
    from halftime.testing.pipelines import STORY, FakeClock, FakePipeline
    from halftime.testing.proxies import PlantedProxy, proxied

_HOMES = {
    "FAULTS": "faults",
    "STORY": "pipelines",
    "FakeClock": "pipelines",
    "FakePipeline": "pipelines",
    "PlantedFault": "faults",
    "PlantedProxy": "proxies",
    "proxied": "proxies",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "FAULTS",
    "STORY",
    "FakeClock",
    "FakePipeline",
    "PlantedFault",
    "PlantedProxy",
    "proxied",
]
