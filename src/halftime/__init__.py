"""halftime profiles a diffusion pipeline, fixes it, proves that its pictures hold, and serves it.

Every name here is imported from its module when it is first used, so `import halftime` is light.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from halftime import _renamed

__version__ = "0.1.0"

if TYPE_CHECKING:
    import halftime.bundled  # noqa: F401
    from halftime.base.errors import HalftimeError as HalftimeError
    from halftime.base.errors import HalftimeWarning as HalftimeWarning
    from halftime.fix import FIXES as FIXES
    from halftime.fix import applied as applied
    from halftime.pipeline.load import load_pipeline as load_pipeline
    from halftime.records import Finding as Finding
    from halftime.records import Session as Session
    from halftime.records import Workload as Workload
    from halftime.report.show import show as show
    from halftime.verbs.audit.run import audit as audit
    from halftime.verbs.forecast.run import forecast as forecast
    from halftime.verbs.profile.inplace import profiling as profiling
    from halftime.verbs.profile.run import profile as profile
    from halftime.verbs.trace.run import trace as trace
    from halftime.verbs.tune.run import tune as tune
    from halftime.verbs.verify.run import verify as verify

# name -> the module that defines it; `bundled` is a module itself.
_HOMES = {
    "FIXES": "halftime.fix",
    "Finding": "halftime.records",
    "HalftimeError": "halftime.base.errors",
    "HalftimeWarning": "halftime.base.errors",
    "Session": "halftime.records",
    "Workload": "halftime.records",
    "applied": "halftime.fix",
    "audit": "halftime.verbs.audit.run",
    "bundled": "halftime",
    "forecast": "halftime.verbs.forecast.run",
    "load_pipeline": "halftime.pipeline.load",
    "profile": "halftime.verbs.profile.run",
    "profiling": "halftime.verbs.profile.inplace",
    "show": "halftime.report.show",
    "trace": "halftime.verbs.trace.run",
    "tune": "halftime.verbs.tune.run",
    "verify": "halftime.verbs.verify.run",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'halftime' has no attribute {name!r}; it has: {', '.join(_HOMES)}"
        )
    if name == "bundled":
        return importlib.import_module("halftime.bundled")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]


_renamed.install()

if "IPython" in sys.modules:
    from halftime.report.notebook import register

    register()
