"""The module names of 0.1.0's drafts, kept for one version: importing one warns and names the new
one.

`halftime.serve.app` was what is now `halftime.verbs.serve.app`. A verb's old package could be
called, too.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "arguments": "pipeline.arguments",
    "door": "base.listening",
    "environment": "base.environment",
    "errors": "base.errors",
    "extras": "base.extras",
    "ledger": "base.ledger",
    "notebook": "report.notebook",
    "priors": "records.priors",
    "shown": "report.show",
    "source": "base.source",
    "stats": "base.stats",
    "store": "base.store",
    "units": "base.units",
    "version": "base.version",
    "workload": "pipeline.workload",
}
# verb -> where the function of that name is
VERBS = {
    "audit": "verbs.audit.run",
    "captions": "verbs.captions.run",
    "doctor": "verbs.doctor.examine",
    "forecast": "verbs.forecast.run",
    "gateway": "verbs.gateway.run",
    "profile": "verbs.profile.run",
    "replay": "verbs.replay.run",
    "serve": "verbs.serve.run",
    "trace": "verbs.trace.run",
    "tune": "verbs.tune.run",
    "verify": "verbs.verify.run",
}


class RenamedModules(MetaPathFinder, Loader):
    """Finds what nobody else does: modules of ours by the names that they had."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if new_name(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A stand-in that reads every name from the new module; warns."""
        name = new_name(spec.name)
        assert name is not None
        warnings.warn(
            f"{spec.name} is now {name}; the old name goes in 0.2.",
            DeprecationWarning,
            stacklevel=2,
        )
        return _Renamed(spec.name, name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: every attribute is read from the new module."""


class _Renamed(ModuleType):
    def __init__(self, name: str, new: str) -> None:
        super().__init__(name)
        self.__dict__["_new"] = new

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_home_of(self.__dict__["_new"], name), name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        verb = self.__name__.rpartition(".")[2]
        module = importlib.import_module(f"halftime.{VERBS[verb]}")
        if verb == "gateway":  # it took the fields of what is now its one argument
            names = dict(zip(("direct", "through"), args, strict=False))
            return module.gateway(module.GatewaySettings(**names, **kwargs))
        if verb == "captions":
            return module.captions(*args, module.Settings(**kwargs))
        return getattr(module, verb)(*args, **kwargs)


def _home_of(module: str, name: str) -> ModuleType:
    """The module that has the name: for a verb's package the one with its function, if the package
    has it not."""
    new = importlib.import_module(module)
    verb = module.rpartition(".")[2]
    return (
        importlib.import_module(f"halftime.{VERBS[verb]}")
        if verb in VERBS and not hasattr(new, name)
        else new
    )


def new_name(old: str) -> str | None:
    """'halftime.verbs.serve.app' for 'halftime.serve.app'; None for what was never called so."""
    package, _, rest = old.partition(".")
    first, _, inner = rest.partition(".")
    if package != "halftime":
        return None
    if first in VERBS:
        return ".".join(filter(None, ("halftime.verbs", first, inner)))
    return f"halftime.{MODULES[first]}" if first in MODULES and not inner else None


def install() -> None:
    """Look for old names after everything else."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
