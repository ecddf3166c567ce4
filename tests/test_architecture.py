"""The rules of the house: who may import whom, no cycles, absolute imports, a plain light front."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import halftime

SOURCE = Path(__file__).parent.parent / "src"
VERBS = (
    "profile",
    "trace",
    "audit",
    "forecast",
    "plan",
    "verify",
    "tune",
    "gate",
    "serve",
    "gateway",
    "captions",
    "replay",
    "doctor",
)
# room -> the rooms of ours that it may import besides itself. What two share lies below both.
BELOW = {"base", "records"}
PIPELINE = BELOW | {"pipeline", "bundled", "upstream"}
MAY_IMPORT: dict[str, set[str]] = {
    "base": BELOW,
    "records": BELOW,
    "upstream": {"base"},
    "pipeline": PIPELINE | {"_renamed"},
    "bundled": PIPELINE,
    "fix": PIPELINE,
    "report": BELOW,
    "http": BELOW,
    **dict.fromkeys(VERBS, PIPELINE),
    "profile": PIPELINE | {"fix"},  # a fix that would be refused is not named
    "plan": PIPELINE | {"forecast"},
    "tune": PIPELINE | {"profile", "fix", "verify", "audit"},
    "gate": PIPELINE | {"profile", "fix", "verify", "audit"},
    "captions": PIPELINE | {"http"},
    "serve": PIPELINE | {"http", "profile", "fix", "verify", "audit"},
    "replay": PIPELINE | {"profile"},
    # its clock stands in for the profiler's, its proxies for a gateway
    "testing": PIPELINE | {"profile", "gateway"},
    "pytest_plugin": PIPELINE | {"audit", "gate"},
    "_renamed": set(),
}
# module -> a room above it that it may import inside functions. `Record.html` draws its record:
# a method is where people look for it, and the import in it costs only those who call it.
INSIDE_FUNCTIONS = {"halftime.records.base": {"report"}}
SEE_EVERYTHING = {"cli", "__main__", ""}  # "" is the front door
HEAVY = {"torch", "diffusers", "transformers"}
MAY_IMPORT_TORCH = {
    "upstream",
    "pipeline",
    "bundled",
    "profile",
    "audit",
    "forecast",
    "fix",
    "verify",
    "tune",
    "gate",
    "serve",
    "testing",
    "pytest_plugin",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@functools.cache
def imports(path: Path, *, at_import: bool) -> frozenset[str]:
    """Modules that a file imports; `at_import` leaves out those inside functions and under
    TYPE_CHECKING."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(
                {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
            )
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return frozenset(names)


def ours(path: Path, *, at_import: bool) -> set[str]:
    return {name for name in imports(path, at_import=at_import) if name in MODULES}


def room_of(module: str) -> str:
    """'profile' for 'halftime.verbs.profile.run', 'base' for 'halftime.base.units'."""
    parts = [part for part in module.split(".")[1:] if part != "verbs"]
    return parts[0] if parts else ""


@pytest.mark.parametrize("module", MODULES)
def test_who_may_import_whom(module: str) -> None:
    room = room_of(module)
    if room in SEE_EVERYTHING:
        return
    allowed = MAY_IMPORT[room] | {room, ""}
    at_import, anywhere = (
        {room_of(name) for name in ours(MODULES[module], at_import=at_import)}
        for at_import in (True, False)
    )
    assert at_import <= allowed, f"{module} may import only {sorted(MAY_IMPORT[room])}"
    assert anywhere <= allowed | INSIDE_FUNCTIONS.get(module, set())


@pytest.mark.parametrize("module", MODULES)
def test_torch_only_where_it_is_needed(module: str) -> None:
    if room_of(module) not in MAY_IMPORT_TORCH:
        imported = {name.split(".")[0] for name in imports(MODULES[module], at_import=False)}
        assert not imported & HEAVY


def test_no_import_cycles() -> None:
    graph = {module: ours(path, at_import=True) - {module} for module, path in MODULES.items()}
    visited: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail, module))}"
        if module not in visited:
            # A package is imported before its modules; that is not a cycle.
            for name in graph[module]:
                if not module.startswith(f"{name}."):
                    visit(name, (*trail, module))
            visited.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "code", ["import halftime", "from halftime.cli import halftime; halftime(['--help'])"]
)
def test_the_front_door_is_light(code: str) -> None:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, "
        "file=sys.stderr)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in completed.stderr.split()}
    assert not loaded & {*HEAVY, "numpy", "matplotlib", "rich", "jinja2", "PIL", "psutil"}


def test_the_front_door_names_what_it_has() -> None:
    for name in dir(halftime):
        assert getattr(halftime, name) is not None
    with pytest.raises(AttributeError, match="it has: FIXES, Finding"):
        _ = halftime.nothing


FRONT = ("profile", "tune", "verify", "audit", "forecast", "trace", "show")


@pytest.mark.parametrize("name", FRONT)
def test_a_verb_of_the_front_is_the_real_function(name: str) -> None:
    """An editor, Shift-Tab and `help` show its signature and its docstring."""
    home = importlib.import_module(halftime._HOMES[name])
    function = getattr(halftime, name)
    assert inspect.isfunction(function)
    assert function is vars(home)[name]
    parameters = inspect.signature(function).parameters.values()
    assert parameters
    assert not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters)
    page = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert f"{name}(" in page
    assert str(inspect.getdoc(function)).splitlines()[0] in page


@pytest.mark.parametrize("name", FRONT)
def test_the_front_stays_a_function_after_its_module_is_imported(name: str) -> None:
    for module in MODULES:
        if module.startswith((f"halftime.verbs.{name}", f"halftime.report.{name}")):
            with contextlib.suppress(ImportError):  # an extra may be missing
                importlib.import_module(module)
    assert inspect.isfunction(getattr(halftime, name))


def test_an_editor_sees_every_name_of_the_front() -> None:
    """What is imported lazily is imported under TYPE_CHECKING too, from the same module."""
    tree = ast.parse(MODULES["halftime"].read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    homes = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes | {"bundled": "halftime"} == halftime._HOMES


def test_no_module_is_callable() -> None:
    """Only the old names are, for one version; nobody else changes what a module is."""
    for module, path in MODULES.items():
        if module != "halftime._renamed":
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
                assert not {"ModuleType", "types.ModuleType"} & {*bases}, module
            assert "sys.modules[__name__].__class__" not in ast.unparse(tree), module
    for name in [name for name in sys.modules if name in MODULES]:
        assert not callable(sys.modules[name]), name


def test_functions_stay_short() -> None:
    long = {
        f"{module}.{node.name}": length
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert not long
