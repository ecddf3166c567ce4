"""The names of 0.1.0's drafts, kept for one version: using one warns and names the new one.

`halftime.serve.app` is now `halftime.verbs.serve.app`. A verb's old package could be called, too:
`import halftime.gateway; halftime.gateway("http://...")`. A renamed thing gets a row in one of the
three tables, and a module that is still where it was, but whose names have moved, one line:
`__getattr__ = attributes_of(__name__)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

# Old module -> new module, both without 'halftime.'; a module's row counts before its package's.
MODULES = {
    "arguments": "pipeline.arguments",
    "captions.asgi": "verbs.captions.app",
    "door": "base.listening",
    "environment": "base.environment",
    "errors": "base.errors",
    "extras": "base.extras",
    "forecast.gpus": "records.gpus",
    "gateway.proxy": "testing.proxies",
    "ledger": "base.ledger",
    "notebook": "report.notebook",
    "priors": "records.priors",
    "report.drawn": "report.registry",
    "serve.admission": "verbs.serve.queue",
    "serve.batching": "verbs.serve.queue",
    "serve.bodies": "verbs.serve.request",
    "serve.channel": "verbs.serve.wire",
    "serve.encode": "verbs.serve.files",
    "serve.estimate": "verbs.serve.preview",
    "serve.events": "verbs.serve.images",
    "serve.listing": "verbs.serve.queue",
    "serve.offer": "verbs.serve.request",
    "serve.order": "verbs.serve.request",
    "serve.pictures": "verbs.serve.files",
    "serve.profiled": "verbs.serve.profiling",
    "serve.ticket": "verbs.serve.queue",
    "shown": "report.show",
    "source": "base.source",
    "stats": "base.stats",
    "store": "base.store",
    "units": "base.units",
    "version": "base.version",
    "workload": "pipeline.workload",
}
# Verb, whose old package moved into `verbs` with all its modules -> where the verb's function is.
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
# Old module -> old name -> new module and new name, where the tables above do not lead there.
ATTRIBUTES: dict[str, dict[str, tuple[str, str]]] = {
    "captions.asgi": {
        "Judge": ("verbs.captions.judge", "AnswerJudge"),
        "Shell": ("verbs.captions.app", "application"),
        "ShellSettings": ("verbs.captions.passthrough", "PassThroughSettings"),
    },
    "audit.tensor": {"Device": ("verbs.audit.mode", "ShadowDevice")},
    "captions.calibrate": {"Settings": ("verbs.captions.calibrate", "CalibrationSettings")},
    "door": {"listening": ("base.listening", "listening_socket")},
    "environment": {
        "collect": ("pipeline.device", "this_environment"),
        "devices": ("pipeline.device", "devices"),
        "torch_build": ("pipeline.device", "torch_build"),
    },
    "captions.collect": {"Asked": ("verbs.captions.requests_file", "CollectedRequest")},
    "captions.metrics": {"Metrics": ("verbs.captions.metrics", "CaptionMetrics")},
    "captions.request": {"Asked": ("verbs.captions.request", "CaptionRequest")},
    "forecast.scenario": {
        "Chosen": ("verbs.forecast.scenario", "ForecastChoice"),
        "Settings": ("verbs.forecast.scenario", "ForecastSettings"),
    },
    "forecast.whatif": {"Fix": ("verbs.forecast.whatif", "WhatIfFix")},
    "gateway.findings": {"Evidence": ("verbs.gateway.evidence", "GatewayEvidence")},
    "gateway.mock": {
        "Entry": ("verbs.gateway.mock", "LogEntry"),
        "State": ("verbs.gateway.mock", "MockState"),
    },
    "gateway.run": {"Settings": ("verbs.gateway.settings", "GatewaySettings")},
    "notebook": {
        "Progress": ("base.progress", "Progress"),
        "in_a_notebook": ("base.progress", "in_a_notebook"),
        "progress": ("base.progress", "notebook_bar"),
    },
    "pipeline": {
        "Loaded": ("pipeline.load", "LoadedPipeline"),
        "Place": ("records.stages", "Place"),
        "call_arguments": ("pipeline.arguments", "call_arguments"),
        "checked_device": ("pipeline.device", "checked_device"),
        "load_pipeline": ("pipeline.load", "load_pipeline"),
        "pipelines_of": ("pipeline.components", "pipelines_of"),
        "place_of": ("records.stages", "place_of"),
        "scheduler_named": ("pipeline.load", "scheduler_named"),
    },
    "profile.coldstart": {
        "Answer": ("verbs.profile.coldstart", "ColdStartResult"),
        "Task": ("verbs.profile.coldstart", "ColdStartTask"),
    },
    "profile.findings": {"Evidence": ("verbs.profile.findings", "ProfileEvidence")},
    "profile.run": {"Settings": ("verbs.profile.run", "ProfileSettings")},
    "report.drawn": {"drawn": ("report.registry", "report_of")},
    "serve.bodies": {"LimitedBodies": ("http.limits", "LimitedBodies")},
    "serve.metrics": {"Metrics": ("verbs.serve.metrics", "ServerMetrics")},
    "serve.offer": {
        "Readiness": ("verbs.serve.health", "Readiness"),
        "readiness_of": ("verbs.serve.health", "readiness_of"),
    },
    "serve.schema": {
        "Model": ("http.endpoints", "ModelObject"),
        "ModelList": ("http.endpoints", "ModelObjects"),
        "Picture": ("verbs.serve.schema", "ImageObject"),
    },
    "serve.service": {"Engine": ("verbs.serve.service", "DrawingEngine")},
    "serve.wire": {
        "Draw": ("verbs.serve.wire", "DrawTask"),
        "Loaded": ("verbs.serve.wire", "ModelLoaded"),
    },
    "trace.structure": {"Loop": ("verbs.trace.structure", "KernelLoop")},
    "tune.artefacts": {"Task": ("verbs.tune.artefacts", "ArtefactsTask")},
    "tune.run": {"Run": ("verbs.tune.run", "TuningRun")},
    "tune.state": {"State": ("verbs.tune.state", "TuneState")},
    "verify.floor": {
        "entries": ("verbs.verify.floor", "floor_entries"),
        "sound": ("verbs.verify.floor", "usable_entries"),
        "strangers": ("verbs.verify.floor", "unrelated_distances"),
    },
    "verify.metrics": {"Judge": ("verbs.verify.metrics", "AgreementJudge")},
    "verify.render": {"Prompt": ("verbs.verify.render", "PicturePrompt")},
    "verify.run": {
        "Settings": ("verbs.verify.run", "VerifySettings"),
        "judged": ("verbs.verify.run", "verdict_of"),
    },
}


def new_module(old: str) -> str | None:
    """'halftime.verbs.serve.app' for 'halftime.serve.app'; None for a name that did not change."""
    package, _, inside = old.partition(".")
    if package != "halftime":
        return None
    if inside in MODULES:
        return f"halftime.{MODULES[inside]}"
    return f"halftime.verbs.{inside}" if inside.partition(".")[0] in VERBS else None


def attributes_of(module: str) -> Callable[[str], object]:
    """A `__getattr__` for a module that exists, some of whose names have moved."""

    def attribute(name: str) -> object:
        if name not in ATTRIBUTES[module.removeprefix("halftime.")]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return renamed_attribute(module, name)

    return attribute


def renamed_attribute(module: str, name: str) -> object:
    """What the old `module` had by that name; warns where the name itself is another now."""
    new, new_name = ATTRIBUTES.get(module.removeprefix("halftime."), {}).get(name, (None, name))
    if new is not None:
        _warn(f"{module}.{name}", f"halftime.{new}.{new_name}", stacklevel=4)
        return getattr(importlib.import_module(f"halftime.{new}"), new_name)
    target = importlib.import_module(new_module(module) or module)
    verb = module.removeprefix("halftime.")
    if verb in VERBS and not hasattr(target, name):  # the package had the verb's function
        target = importlib.import_module(f"halftime.{VERBS[verb]}")
    return getattr(target, name)


def _warn(old: str, new: str, stacklevel: int) -> None:
    text = f"{old} is now {new}; the old name will be removed in 0.2."
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


class RenamedModule(ModuleType):
    """An old module: every attribute is read from the new one."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return renamed_attribute(self.__name__, name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        verb = self.__name__.removeprefix("halftime.")
        if verb not in VERBS:
            raise TypeError(f"module {self.__name__!r} is not callable")
        function: Callable[..., object] = renamed_attribute(self.__name__, verb)  # type: ignore[assignment]
        if verb == "gateway":  # it took the fields of what is now its one argument
            fields = dict(zip(("direct", "through"), args, strict=False)) | kwargs
            return function(_settings("gateway.run", fields))
        if verb == "captions":
            log = args[0] if args else kwargs.pop("log")
            return function(log, _settings("captions.calibrate", kwargs))
        return function(*args, **kwargs)


def _settings(module: str, fields: dict[str, object]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        settings: Callable[..., object] = renamed_attribute(f"halftime.{module}", "Settings")  # type: ignore[assignment]
    return settings(**fields)


class RenamedModules:
    """Finds our modules by their old names, after everybody else has looked.

    A finder and loader by its methods: the classes of importlib.abc take longer to import than the
    rest of halftime's own name.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name that a new module has replaced."""
        new = new_module(fullname)
        spec = importlib.util.find_spec(new) if new else None
        if spec is None:
            return None
        is_package = spec.submodule_search_locations is not None
        return ModuleSpec(fullname, cast("Loader", self), is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _warn(spec.name, str(new_module(spec.name)), stacklevel=3)
        return RenamedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: every attribute is read from the new module."""

    def get_source(self, fullname: str) -> None:
        """None: the text is the new module's."""

    def get_code(self, fullname: str) -> CodeType:
        """For `python -m halftime.gateway.proxy`: run the new module as the main one."""
        new = new_module(fullname)
        _warn(fullname, str(new), stacklevel=2)
        text = f"import runpy; runpy.run_module({new!r}, run_name='__main__', alter_sys=True)"
        return compile(text, fullname, "exec")


def install() -> None:
    """Look for old names after everything else."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
