"""Files of compile artefacts: what is kept, what is refused, and what a fresh process need not
compile."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.errors import BadFile, HalftimeWarning
from halftime.fix.artefacts import beside, compiles, differences, keeping, made_for, open_artefacts
from halftime.fix.base import Settings
from halftime.fix.compilation import compile_options
from halftime.records.recipe import Choice, Plan

KIND = {"torch": "2.13.0", "processor": "a", "number of threads": "1", "recipe": "0123"}


def written(
    path: Path, kind: dict[str, str] = KIND, name: str = "ab/kernel.so", text: str = "code"
) -> Path:
    """A file of artefacts, made as a compiler would: by writing into the folder that it is told."""
    with open_artefacts(path, kind) as opened:
        file = opened.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(
        tmp_path_factory.mktemp("whole") / "r.artefacts", text="code " * 400
    ).read_bytes()


def test_what_was_compiled_is_there_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/before")
    path = written(tmp_path / "r.artefacts")
    before = path.read_bytes()
    with open_artefacts(path, KIND) as opened:
        assert opened.fits
        assert (opened.folder / "ab" / "kernel.so").read_text() == "code"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(opened.folder)
        (opened.folder / "locks").mkdir()
        (opened.folder / "locks" / "x.lock").touch()  # of this process
    assert path.read_bytes() == before
    assert not opened.folder.exists()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/before"
    written(path, name="cd/more.so")
    with open_artefacts(path, KIND) as opened:
        assert {file.name for file in opened.folder.rglob("*.so")} == {"kernel.so", "more.so"}


def test_nothing_compiled_writes_nothing(tmp_path: Path) -> None:
    with open_artefacts(tmp_path / "r.artefacts", KIND) as opened:
        assert not opened.fits
    assert list(tmp_path.iterdir()) == []


def taken_up(path: Path, kind: dict[str, str]) -> tuple[bool, list[Path]]:
    with open_artefacts(path, kind) as opened:
        return opened.fits, list(opened.folder.iterdir())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"torch": "2.14.0"}, r"another torch \(2\.13\.0, here 2\.14\.0\)"),
        ({"processor": "b"}, r"another processor \(a, here b\)"),
        ({"number of threads": "2"}, r"another number of threads \(1, here 2\)"),
        ({"recipe": "4567"}, "another recipe"),
        ({"cuda": "13.0"}, r"another cuda \(none, here 13\.0\)"),
    ],
)
def test_what_was_made_for_something_else_is_not_used(
    other: dict[str, str], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "r.artefacts")
    before = path.read_bytes()
    with pytest.warns(HalftimeWarning, match=words):
        assert taken_up(path, KIND | other) == (False, [])
    assert path.read_bytes() == before  # nothing was compiled
    with pytest.warns(HalftimeWarning, match=words):
        written(path, KIND | other, name="ef/other.so")
    with open_artefacts(path, KIND | other) as opened:
        assert [file.name for file in opened.folder.rglob("*.so")] == ["other.so"]


@given(data=st.data())
def test_a_file_that_was_cut_off_is_refused(
    whole: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.artefacts"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BadFile, match="damaged"), open_artefacts(path, KIND):
        raise AssertionError("it was taken")


def test_a_changed_byte_of_the_code_is_refused(whole: bytes, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(whole))
    at = (
        archive.getinfo("inductor/ab/kernel.so").header_offset
        + 30
        + len("inductor/ab/kernel.so")
        + 2
    )
    path = tmp_path / "r.artefacts"
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(BadFile, match="damaged"), open_artefacts(path, KIND):
        raise AssertionError("it was taken")


@pytest.mark.parametrize("content", [b"", b"[[fixes]]\n", b"\x80\x04pickle", b"\x1f\x8b\x08"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.artefacts"
    path.write_bytes(content)
    with (
        pytest.raises(BadFile, match="not a file of compile artefacts"),
        open_artefacts(path, KIND),
    ):
        raise AssertionError("it was taken")
    assert path.read_bytes() == content


def test_other_archives_newer_ones_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.artefacts"
    for manifest, words in (
        (None, "not a file of"),
        (json.dumps({"schema": 2, "made_for": KIND}), "schema"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inductor/x.so", "code")
            if manifest:
                archive.writestr("halftime.json", manifest)
        with pytest.raises(BadFile, match=words), open_artefacts(path, KIND):
            raise AssertionError("it was taken")
    with pytest.raises(BadFile, match="Name a file"), open_artefacts(tmp_path, KIND):
        raise AssertionError("it was taken")


def test_no_name_leads_out_of_the_folder(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.artefacts"
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("inductor/../../../outside", "x")
        archive.writestr("beside", "x")
    with open_artefacts(path, KIND) as opened:
        place = opened.folder.parent
        assert {file.relative_to(place).parts[0] for file in place.rglob("*")} <= {
            "inductor",
            "outside",
        }
        assert not any((up / "outside").exists() for up in place.parents)


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        written(tmp_path / "r.artefacts", name="")
    assert list(tmp_path.iterdir()) == []
    assert not keeping()


def test_where_it_cannot_be_written_the_pictures_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(HalftimeWarning, match="not kept: cannot write"):
        written(tmp_path / "file" / "r.artefacts")


def test_what_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from halftime.base import environment

    plan, here = (
        Plan(fixes=(Choice(name="vae-compile"), Choice(name="vae-dtype"))),
        torch.device("cpu"),
    )
    first = made_for(here, plan, {"vae": "a"})
    assert first["torch"] == metadata.version("torch")  # torch.__version__ may add '+cu130'
    assert first["number of threads"] == str(torch.get_num_threads())
    turned = Plan(fixes=plan.fixes[::-1])
    assert made_for(here, turned, {"vae": "a"}) == first
    less = Plan(fixes=plan.fixes[:1])
    assert differences(made_for(here, less, {"vae": "b"}), first) == [
        "another model",
        "another recipe",
    ]
    monkeypatch.setattr(environment, "instructions", lambda: ["sse"])
    assert differences(first, made_for(here, plan, {"vae": "a"}))[0].startswith(
        "another set of instructions"
    )


@pytest.mark.parametrize(
    ("fixes", "expected"),
    [
        ((Choice(name="vae-compile"),), True),
        ((Choice(name="vae-dtype"), Choice(name="denoiser-compile")), True),
        ((Choice(name="loop-graph"),), True),
        (
            (Choice(name="loop-graph", settings={"backend": "openvino"}), Choice(name="openvino")),
            False,
        ),
        ((), False),
    ],
)
def test_which_plans_compile(fixes: tuple[Choice, ...], expected: bool) -> None:
    assert compiles(Plan(fixes=fixes)) is expected


def test_they_lie_beside_their_recipe() -> None:
    assert beside("some/recipe.toml") == Path("some/recipe.artefacts")


def test_headers_are_compiled_ahead_only_where_nothing_is_kept(tmp_path: Path) -> None:
    import torch

    settings: Settings = {"mode": "default", "freezing": True, "fullgraph": False, "dynamic": False}
    cpu = torch.device("cpu")
    assert compile_options(settings, cpu)["options"] == {"freezing": True}
    with open_artefacts(tmp_path / "r.artefacts", KIND):
        options = compile_options(settings, cpu)["options"]
    assert options == {"freezing": True, "cpp_cache_precompile_headers": False}


_PROCESS = """
import sys, warnings
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from halftime.base.errors import HalftimeWarning
from halftime.fix.artefacts import open_artefacts
from halftime.fix.compilation import DEFAULTS, compile_with

warnings.simplefilter("error", HalftimeWarning)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU()).eval()
first = not Path(sys.argv[1]).exists()
outside = torch.compile(lambda x: x.cos() * 3, dynamic=False)
x = torch.ones(2, 8)
with torch.no_grad():
    expected, other = model(x), outside(x) if first else None
    with open_artefacts(Path(sys.argv[1]), {"threads": str(torch.get_num_threads())}) as opened:
        found = opened.fits
        counters.clear()
        torch.testing.assert_close(compile_with(model.forward, DEFAULTS, x.device)(x), expected)
        found_in_cache = counters["inductor"]
        print(found, found_in_cache["fxgraph_cache_hit"], found_in_cache["fxgraph_cache_miss"])
    # What was compiled before runs on, and so does the compiler.
    if first:
        torch.testing.assert_close(outside(x), other)
        torch.testing.assert_close(outside(torch.ones(3, 8)), torch.ones(3, 8).cos() * 3)
"""


@pytest.mark.slow
def test_a_fresh_process_takes_up_what_another_one_compiled(tmp_path: Path) -> None:
    path = tmp_path / "r.artefacts"
    assert fresh(path, tmp_path / "first") == "False 0 1"
    before = graphs(path)
    assert fresh(path, tmp_path / "second") == "True 1 0"
    assert graphs(path) == before


def graphs(path: Path) -> set[str]:
    names = zipfile.ZipFile(path).namelist()
    assert any(name.endswith(".so") for name in names)
    return {name for name in names if "fxgraph" in name}


def fresh(path: Path, temporary: Path) -> str:
    """In a process that finds nothing in its caches."""
    temporary.mkdir()
    variables = {
        **os.environ,
        "TMPDIR": str(temporary),
        "TORCHINDUCTOR_CACHE_DIR": str(temporary / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, str(path)],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_warnings_are_one_line_on_the_command_line() -> None:
    from halftime.cli import _one_line

    assert _one_line(HalftimeWarning("made for another torch."), HalftimeWarning, "x.py", 1) == (
        "warning: made for another torch.\n"
    )
    assert warnings.formatwarning("other", RuntimeWarning, "x.py", 1).startswith(
        "x.py:1: RuntimeWarning"
    )
