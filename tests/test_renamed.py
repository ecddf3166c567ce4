"""The old names of modules, functions and classes still work, and warn with the new one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import halftime
from halftime import _renamed
from halftime._renamed import ATTRIBUTES, VERBS, RenamedModule, attributes_of, new_module

# Package (or none) -> its modules before everything moved.
OLD_MODULES = {
    "": (
        "arguments audit captions doctor door environment errors extras forecast gateway "
        "ledger notebook pipeline priors profile replay serve shown source stats store trace "
        "tune units verify version workload"
    ),
    "audit": (
        "cases check compare ghost guard home loop mode patches rules run sites steps tensor waits"
    ),
    "captions": (
        "asgi calibrate certify collect compare drift features learn litellm_hook log metrics "
        "price request router upstream"
    ),
    "forecast": (
        "architectures cache calibrate catalogue claim components constants evaluate floor "
        "fusion geometry gpus host models ops predict presets prices roofline rows run saved "
        "scenario session tracer whatif"
    ),
    "gateway": (
        "analysis client endpoint extra failures findings load mock process proxy run summary "
        "timer upstream verdict"
    ),
    "profile": (
        "call clock coldstart compare compilation device_probe doubts facts findings "
        "instrument probe recorder run traced"
    ),
    # of the server those that its page named; the rest was cut anew
    "serve": "app engine messages metrics ray_serve service",
    "trace": ("device findings perfetto places read run stages structure syncs tree"),
    "tune": ("artefacts bench candidates decide quality run search slides state sweep"),
    "verify": ("decide floor judge metrics pictures render run sheet tripwires"),
}

OLD_NAMES = [
    ".".join(filter(None, ("halftime", package, module)))
    for package, modules in OLD_MODULES.items()
    for module in modules.split()
]


def module_of(dotted: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except ImportError as error:
        if "halftime" in str(error):
            raise
        return pytest.skip(f"an extra is missing: {error}")


@pytest.fixture(autouse=True)
def imports_as_before() -> Iterator[None]:
    """An old name that was imported shadows the function of the front; undo that."""
    names = set(vars(halftime))
    yield
    for name in [name for name in sys.modules if new_module(name)]:
        del sys.modules[name]
    for name in set(vars(halftime)) - names:
        if isinstance(vars(halftime)[name], RenamedModule):
            delattr(halftime, name)


@pytest.mark.parametrize("name", [name for name in OLD_NAMES if name != "halftime.pipeline"])
def test_an_old_module_warns_and_gives_the_same_objects(name: str) -> None:
    new_name = new_module(name)
    assert new_name is not None
    new = module_of(new_name)
    with pytest.warns(DeprecationWarning, match=f"{name} is now {new_name}; the old name"):
        old = module_of(name)
    for attribute, value in vars(new).items():
        renamed = attribute in ATTRIBUTES.get(name.removeprefix("halftime."), {})
        if not attribute.startswith("__") and not renamed:
            assert getattr(old, attribute) is value


def test_the_warning_names_the_line_that_imports() -> None:
    with pytest.warns(DeprecationWarning, match="halftime.base.errors") as record:
        import halftime.errors  # type: ignore[import-not-found]
    assert record[0].filename == __file__
    assert halftime.errors.HalftimeError is halftime.HalftimeError  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in ATTRIBUTES.items() for name in names]
)
def test_an_old_attribute_warns_and_gives_the_new_one(module: str, name: str) -> None:
    new, new_name = ATTRIBUTES[module][name]
    old = module_of(f"halftime.{module}")
    with pytest.warns(DeprecationWarning, match=f"{name} is now halftime.{new}.{new_name}; "):
        assert getattr(old, name) is getattr(module_of(f"halftime.{new}"), new_name)


@pytest.mark.parametrize("module", list(ATTRIBUTES))
def test_a_module_that_stayed_asks_the_table(module: str) -> None:
    if new_module(f"halftime.{module}") is None:
        assert hasattr(importlib.import_module(f"halftime.{module}"), "__getattr__")


def test_what_was_never_there_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"halftime\.serve\.nothing"):
        importlib.import_module("halftime.serve.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("halftime.nothing")
    for module in ("halftime.errors", "halftime.pipeline", "halftime.gateway"):
        with pytest.raises(AttributeError, match="nothing"):
            getattr(importlib.import_module(module), "nothing")  # noqa: B009
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        attributes_of("halftime.pipeline")("nothing")
    with pytest.raises(TypeError, match="not callable"):
        importlib.import_module("halftime.errors")()  # type: ignore[operator]


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"captions", "doctor", "gateway"}))
def test_an_old_package_can_be_called(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(f"halftime.{VERBS[verb]}")
    monkeypatch.setattr(module, verb, lambda *args, **kwargs: (args, kwargs))
    package: Any = module_of(f"halftime.{verb}")
    assert package(1, two=2) == ((1,), {"two": 2})


def test_two_old_packages_took_the_fields_of_their_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments: list[object] = []
    gateway: Any = module_of("halftime.gateway")
    monkeypatch.setattr(f"halftime.{VERBS['gateway']}.gateway", arguments.append)
    gateway("http://127.0.0.1:1", through="http://127.0.0.1:2", requests=7)
    assert type(arguments[0]) is _renamed.renamed_attribute("halftime.gateway.run", "Settings")
    assert vars(arguments[0])["through"] == "http://127.0.0.1:2"
    captions: Any = module_of("halftime.captions")
    monkeypatch.setattr(f"halftime.{VERBS['captions']}.captions", lambda *args: args)
    log, settings = captions("log.jsonl", alpha=0.2)
    assert log == "log.jsonl"
    assert settings.alpha == 0.2
    assert captions(log="log.jsonl")[0] == "log.jsonl"


def test_an_old_module_runs_as_the_main_one() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "halftime.gateway.proxy", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "holds-each-chunk" in completed.stdout


def test_the_finder_is_installed_once_and_last() -> None:
    _renamed.install()
    finders = [finder for finder in sys.meta_path if isinstance(finder, _renamed.RenamedModules)]
    assert len(finders) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("json", "halftime.base.units", "halftime.verbs.verify"):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.loader not in finders
