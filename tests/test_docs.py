"""Every command, program and file that the README and the guides show is run here, page by page, in
their order."""

from __future__ import annotations

import ast
import functools
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from captions_synthetic import synthetic
from collecting import freeze
from documented import (
    PAGES,
    ROOT,
    WAYS,
    Alone,
    Bash,
    Elsewhere,
    Make,
    NotHere,
    Ours,
    Pip,
    Python,
    Shown,
    Way,
    code_of,
    shown,
)
from gateway_servers import mock_and_proxy, shorten_calibration
from halftime.cli import VERBS, _run
from halftime.records import Record, Workload
from halftime.records.recipe import Plan
from halftime.verbs.gateway.mock import Behaviour
from quick_tuning import tune_quickly

UP, GW = "http://127.0.0.1:9000/v1", "http://127.0.0.1:4000/v1"  # what the guide calls them


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a diffusers folder, a cached hub id, a package with functions, a recorded
    trace."""
    import halftime
    from tiny_pipelines import PIPELINES

    folder = tmp_path_factory.mktemp("reader")
    bundled = folder / "my-sdxl"
    halftime.load_pipeline().save_pretrained(bundled)
    (folder / "my-pipeline").symlink_to(bundled)
    cached = folder / "hub" / "models--stabilityai--sdxl-turbo"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots" / "0000").symlink_to(bundled)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0000")
    PIPELINES["cogvideox"].build().save_pretrained(folder / "cogvideox-2b")
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    (folder / "mypackage" / "pipelines.py").write_text(
        "from tiny_pipelines import PIPELINES\nmake = PIPELINES['sdxl'].build\nmake_tiny = "
        "PIPELINES['wan'].build\n"
    )
    (folder / "body.json").write_text(
        '{"model": "m", "messages": [{"role": "user", "content": "{id}"}]}'
    )
    (folder / "log.jsonl").write_bytes(
        b"\n".join(msgspec.json.encode(row) for row in synthetic(400).rows)
    )
    _checkout(folder)
    _record(folder / "trace.json.gz")
    for name in ("before", "after"):
        shutil.copy(folder / "trace.json.gz", folder / f"{name}.json.gz")
    for rank in (0, 1):
        trace = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
        trace["distributedInfo"] = {"rank": rank, "world_size": 2}
        (folder / f"rank{rank}.json.gz").write_bytes(gzip.compress(json.dumps(trace).encode(), 1))
    return folder


def _checkout(folder: Path) -> None:
    """What guides name of a checkout, with the tables of measurements cut to their first rows."""
    for name in ("benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "workshop" / "forecast").mkdir(parents=True)
    tables = list((ROOT / "workshop" / "forecast").glob("*.csv"))
    assert tables
    for table in tables:
        first = table.read_text().splitlines(keepends=True)[:30]
        (folder / "workshop" / "forecast" / table.name).write_text("".join(first))


def _record(file: Path) -> None:
    from halftime.verbs.profile.traced import trace_call
    from tiny_pipelines import PIPELINES

    workload = Workload(steps=3, width=32, height=32)
    trace_call(PIPELINES["sdxl"].build(), workload, file.parent).rename(file)


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's own folder, with links to what a reader has, and halftime and python on the
    path."""
    for item in models.iterdir():
        (tmp_path / item.name).symlink_to(item)
    for page, name in (("fix", "plan.toml"), ("profile", "workload.toml")):
        toml = next(item for item in shown(ROOT / "docs" / f"{page}.md") if item.kind == "toml")
        (tmp_path / name).write_text(toml.text)
    (tmp_path / "typo.toml").write_text('schema = 1\n[[fixes]]\nname = "vae-dtypo"\n')
    tools = tmp_path / ".bin"
    tools.mkdir()
    for name, words in (
        ("halftime", f'"{sys.executable}" -m halftime'),
        ("python", f'"{sys.executable}"'),
    ):
        (tools / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("HF_HUB_CACHE", str(models / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / ".data"))
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-test")
    shorten_calibration(monkeypatch)
    tune_quickly(monkeypatch, "vae-channels-last", "solver-steps")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    freeze()  # each page imports more, and nothing of this file is to outlive its page


@pytest.fixture(scope="session")
def endpoints() -> Iterator[dict[str, str]]:
    """The mock upstream and a proxy before it, for the addresses that the guide writes."""
    with mock_and_proxy(Behaviour(delay=0.001)) as (up, through):
        yield {
            UP: up,
            GW: through,
            "http://triton:8000": up.removesuffix("/v1"),
            "$UP/any/path": f"{up}/chat/completions",
            "$GW/any/path": f"{through}/chat/completions",
            "$UP": up,
            "$GW": through,
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(
    page: Path, here: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    for item in shown(page):
        if item.kind == "toml":
            continue
        way = item.way()
        assert way is not None, f"{item.where}\nis run by no test: add a row to tests/documented.py"
        text = item.text
        if re.search(r"halftime gateway (--|http)", text):
            for written, real in request.getfixturevalue("endpoints").items():
                text = text.replace(written, real)
        if _ran_before(way, text) and not item.output:
            continue
        failure = RUNNERS[type(way)](way, text)
        captured = capfd.readouterr()
        assert not failure, f"{item.where}\n{failure}\n{captured.err[-3000:]}"
        for line in item.output:
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert re.search(pattern, captured.out + captured.err), (
                f"{item.where}\n{line}\nnot in\n{captured.err}"
            )


_RUN: set[str] = set()  # what pages before showed, too
_WRITES = re.compile(r"--(json|html|markdown|github|trace|perfetto|flame|keep|recipe)\b")


def _ran_before(way: Way, text: str) -> bool:
    """Whether a page before ran the same, of which no file is expected."""
    command = text.partition(" #")[0].strip()
    if not isinstance(way, Ours | Make) or _WRITES.search(f"{command} {way.more}"):
        return False
    again = command in _RUN
    _RUN.add(command)
    return again


def _ours(way: Way, text: str) -> str:
    assert isinstance(way, Ours)
    first = re.split(r" (?:\|\|?|&&|;|&)(?: |$)", text)[0]
    words = shlex.split(first, comments=True)
    code = _run([*words[1:], *shlex.split(way.more)], debug=False)
    return _difference(code, way)


def _alone(way: Way, text: str) -> str:
    assert isinstance(way, Alone)
    words = [*shlex.split(text, comments=True)[1:], *shlex.split(way.more)]
    command = [sys.executable, "-m", "halftime", *words]
    return _difference(subprocess.run(command, check=False, timeout=300).returncode, way)


def _difference(code: int, way: Ours) -> str:
    if code == 2 != way.code:  # it failed, so there is no record to look at
        return "exit code 2"
    expected = way.expected_code()
    return "" if code == expected else f"exit code {code}, not {expected}"


def _bash(way: Way, text: str) -> str:
    assert isinstance(way, Bash)
    if way.old == "--":  # options before the comment
        text = f"{text.partition('#')[0].strip()} {way.new.removesuffix('--')}"
    elif way.old:
        text = text.replace(way.old, way.new)
    return _process(["bash", "-ec", text])


def _process(words: list[str], **options: object) -> str:
    completed = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=300, **options
    )  # type: ignore[call-overload]
    print(completed.stdout)  # noqa: T201  # what the page quotes is looked for there
    return (
        ""
        if completed.returncode == 0
        else f"{words} ended with {completed.returncode}:\n"
        f"{completed.stdout[-2000:]}{completed.stderr[-2000:]}"
    )


def _python(way: Way, text: str) -> str:
    assert isinstance(way, Python)
    from halftime.pytest_plugin import assert_no_syncs_in_loop

    names: dict[str, object] = {}
    for statement in way.names.values():
        exec(statement, names)
    exec(compile(text, "<page>", "exec"), names)
    for name, value in list(names.items()):
        if name.startswith("test_") and callable(value):
            value(assert_no_syncs_in_loop)
    return ""


def _elsewhere(way: Way, text: str) -> str:
    assert isinstance(way, Elsewhere)
    file, _, name = way.test.partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    return "" if name in functions else f"{way.test} does not exist"


def _pip(way: Way, text: str) -> str:
    """Resolve the requirement against what is installed: every package of the extra exists by that
    name."""
    assert text in _PIPS
    return _resolved()


_PIPS = [item.text for page in PAGES for item in shown(page) if isinstance(item.way(), Pip)]


@functools.cache
def _resolved() -> str:
    """Every extra of every page at once: pip takes seconds to read what this project needs."""
    extras = [extra for text in _PIPS for extra in re.findall(r"\[([\w,]+)\]", text)]
    requirement = f"{ROOT}[{','.join(extras)}]"
    words = ["install", "--dry-run", "--quiet", "--no-index", "--no-build-isolation", requirement]
    return _process([sys.executable, "-m", "pip", *words])


def _make(way: Way, text: str) -> str:
    assert isinstance(way, Make)
    installed = [word for stamp in ("base", "test") for word in ("-o", f".venv/{stamp}.stamp")]
    words = shlex.split(text, comments=True)[1:] + shlex.split(way.more)
    binaries = f"BIN={Path.cwd() / '.bin'}"
    return _process(["make", *(["-n"] if way.dry else []), *installed, binaries, *words], cwd=ROOT)


def _not_here(way: Way, text: str) -> str:
    assert isinstance(way, NotHere)
    return "" if way.why else "a reason is missing"


RUNNERS: dict[type, Callable[[Way, str], str]] = {
    Ours: _ours,
    Alone: _alone,
    Bash: _bash,
    Python: _python,
    Elsewhere: _elsewhere,
    Pip: _pip,
    Make: _make,
    NotHere: _not_here,
}


def test_every_row_is_for_a_command_that_a_page_shows() -> None:
    ways = {id(item.way()) for page in PAGES for item in shown(page) if item.kind != "toml"}
    assert [pattern for pattern, way in WAYS if id(way) not in ways] == []


def test_a_page_shows_what_is_run_here() -> None:
    items = [item for page in PAGES for item in shown(page)]
    assert len(items) > 100
    assert sum(len(item.output) for item in items) > 10


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"verdict": "equivalent"}, 0),
        ({"verdict": "different"}, 1),
        ({"verdict": "inconclusive"}, 3),
        ({"verdict": "equivalent", "reached": False, "ladder": []}, 1),
        ({"verdict": "different", "ladder": [{"kept": True, "level": "approximate"}]}, 0),
        ({"within_budget": False}, 1),
        ({"within_budget": True}, 0),
    ],
)
def test_a_records_exit_code(record: dict, code: int) -> None:
    assert code_of(record) == code


def test_another_exit_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verdict.json").write_text('{"verdict": "different"}')
    assert _difference(1, Ours(record="verdict.json")) == ""
    assert _difference(0, Ours(record="verdict.json")) == "exit code 0, not 1"
    assert _difference(1, Ours()) == "exit code 1, not 0"
    assert _difference(2, Ours(code=2)) == ""


def test_a_new_command_without_a_row_is_noticed() -> None:
    unknown = Shown(ROOT / "README.md", 1, "sh", "halftime fly --to moon")
    assert unknown.way() is None


def test_a_failing_command_is_noticed(here: Path) -> None:
    assert "exit code 2" in _ours(Ours(), "halftime profile nowhere --no-cold-start")
    assert "ended with 3" in _bash(Bash(), "exit 3")
    assert "does not exist" in _elsewhere(Elsewhere("tests/test_docs.py::test_nothing"), "")


# What a TOML block is, by its page; a block of another page must be TOML at least.
TOML_KINDS: dict[str, type[Record]] = {"fix": Plan, "profile": Workload}


@pytest.mark.parametrize(
    "item", [item for page in PAGES for item in shown(page) if item.kind == "toml"], ids=str
)
def test_toml_of_a_page_is_what_it_says(item: Shown) -> None:
    values = tomllib.loads(item.text)
    assert values
    kind = TOML_KINDS.get(item.page.stem)
    if kind:
        assert isinstance(msgspec.convert(values, type=kind), kind)


def test_doubts_of_the_page_are_those_of_the_source() -> None:
    from halftime.verbs.profile import doubts

    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) >= 5
    source = Path(doubts.__file__).read_text()
    assert [words for words in quoted if words not in source] == []


def test_every_verb_has_a_guide_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert (ROOT / "docs" / f"{verb}.md").is_file(), f"docs/{verb}.md is missing"
        assert f"docs/{verb}.md" in readme
