"""halftime finds where a diffusion pipeline's time goes, fixes it, proves that the pictures hold, and serves it.

The front door. Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    import halftime.bundled  # noqa: F401
    from halftime.audit.run import audit as audit
    from halftime.fix import FIXES as FIXES
    from halftime.fix import applied as applied
    from halftime.forecast.run import forecast as forecast
    from halftime.pipeline import load_pipeline as load_pipeline
    from halftime.profile.run import profile as profile
    from halftime.records import Finding as Finding
    from halftime.records import Session as Session
    from halftime.records import Workload as Workload
    from halftime.shown import show as show
    from halftime.trace.run import trace as trace
    from halftime.tune.run import tune as tune
    from halftime.verify.run import verify as verify

# name -> module and attribute; None where the name is the module itself (a verb's package can be called).
_HOMES: dict[str, tuple[str, str | None]] = {
    "FIXES": ("halftime.fix", "FIXES"),
    "Finding": ("halftime.records", "Finding"),
    "Session": ("halftime.records", "Session"),
    "Workload": ("halftime.records", "Workload"),
    "applied": ("halftime.fix", "applied"),
    "audit": ("halftime.audit", None),
    "bundled": ("halftime.bundled", None),
    "forecast": ("halftime.forecast", None),
    "load_pipeline": ("halftime.pipeline", "load_pipeline"),
    "profile": ("halftime.profile", None),
    "show": ("halftime.shown", "show"),
    "trace": ("halftime.trace", None),
    "tune": ("halftime.tune", None),
    "verify": ("halftime.verify", None),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'halftime' has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    module_name, attribute = _HOMES[name]
    module = importlib.import_module(module_name)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]


if "IPython" in sys.modules:
    from halftime.notebook import register

    register()
