"""How commands end: results are on the screen before files are written, what cannot be written
loses no measurement, a reader who leaves is no gate's no, and Ctrl-C says one thing."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halftime.base.errors import BadFile
from halftime.base.store import read_json, write_bytes
from halftime.cli import _run, output
from halftime.cli import halftime as group
from halftime.cli.ending import Journal, journal
from halftime.cli.output import ExtraFile, Output, emit
from halftime.records.forecast import GpuList
from halftime.verbs.forecast.catalogue import gpu_list

IMPOSSIBLE = ["forecast", "sdxl", "--gpu", "A10G", "--claim", "denoise=1ms"]


@pytest.fixture
def rescues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept that their own files did not take."""
    folder = tmp_path / "rescues"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("option", ["--json", "--html", "--markdown"])
def test_a_full_disk_loses_no_measurement(
    option: str, rescues: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(["show", str(saved(rescues)), option, "/dev/full"], debug=False) == 2
    screen, errors = capfd.readouterr()
    assert "A10G" in screen
    assert "cannot write /dev/full: No space left on device." in errors
    kept = [path for path in rescues.iterdir() if path.name.startswith("halftime-")]
    assert len(kept) == 1
    assert f"halftime show {kept[0]}" in errors
    assert read_json(kept[0], GpuList) == gpu_list()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # and not a file in its place


def saved(folder: Path) -> Path:
    gpu_list().save(folder / "saved.json")
    return folder / "saved.json"


def test_one_file_that_fails_keeps_no_other_from_being_written(
    rescues: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["show", str(saved(rescues)), "--html", "/dev/full", "--json"]
    assert _run([*words, str(tmp_path / "good.json")], debug=False) == 2
    assert read_json(tmp_path / "good.json", GpuList) == gpu_list()
    assert "kept in" not in capfd.readouterr().err  # it has its file


def test_the_screen_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(output, "write_json", lambda *_: seen.append(capfd.readouterr().out))
    emit(gpu_list(), Output(json_file=str(tmp_path / "x.json")))
    assert "A10G" in seen[0]
    assert capfd.readouterr().out == f"wrote {tmp_path / 'x.json'}\n"


def test_a_verbs_own_file_is_written_last_and_its_failure_named(
    rescues: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(output.NotWritten, match=r"cannot write a\.toml: Disk quota exceeded\."):
        emit(gpu_list(), Output(quiet=True), extra=[ExtraFile("a.toml", failing)])
    assert [path.name[:9] for path in rescues.iterdir()] == ["halftime-"]
    assert capfd.readouterr().out == ""


def test_where_nothing_takes_it_a_quiet_command_prints_it(
    rescues: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(path: str, _: object) -> None:
        raise BadFile(f"cannot write {path}: no.")

    monkeypatch.setattr(output, "write_json", failing)
    with pytest.raises(output.NotWritten, match="printed above alone"):
        emit(gpu_list(), Output(json_file="/dev/full", quiet=True))
    assert "A10G" in capfd.readouterr().out
    assert list(rescues.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "x.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadFile, match="No space left"):
        write_bytes(tmp_path / "x.json", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.json": b"old"}


def test_a_link_is_followed_and_a_long_name_fits(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(b"old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_bytes(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new"
    write_bytes(tmp_path / ("x" * 255), b"new")


# ---- standard output


@contextmanager
def closed_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a pipe whose reader has left, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as stream:
        patch.setattr("sys.stdout", stream)
        yield


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["forecast", "gpus"], 0),
        (IMPOSSIBLE, 141),
        ([*IMPOSSIBLE, "--json"], 141),
        (["forecast", "gpus", "--json"], 141),
    ],
)
def test_a_reader_who_leaves_is_no_gates_no(
    words: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with closed_pipe(monkeypatch):
        assert _run(words, debug=False) == code
    assert capfd.readouterr().err == ""


def test_files_are_written_though_the_reader_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closed_pipe(monkeypatch):
        assert _run([*IMPOSSIBLE, "--json", str(tmp_path / "f.json")], debug=False) == 141
    assert (tmp_path / "f.json").is_file()


@pytest.mark.parametrize("words", [["forecast", "gpus"], ["forecast", "gpus", "--json"]])
def test_a_full_disk_behind_standard_output(
    words: list[str],
    rescues: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch, open("/dev/full", "w") as full:
        patch.setattr("sys.stdout", full)
        assert _run(words, debug=False) == 2
    errors = capfd.readouterr().err
    assert errors.count("cannot write to standard output: No space left on device.") == 1
    (kept,) = rescues.iterdir()
    assert read_json(kept, GpuList) == gpu_list()


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("notes", "sentence"),
    [
        (Journal(), "interrupted; nothing was written."),
        (Journal(written=["a.json"]), "interrupted; a.json is complete."),
        (Journal(written=["a", "b"]), "interrupted; a, b are complete."),
        (Journal(resumes="run it again"), "interrupted; run it again."),
        (Journal(["a"], "run it again"), "interrupted; a is complete; run it again."),
    ],
)
def test_ctrl_c_says_one_thing(notes: Journal, sentence: str) -> None:
    assert notes.interruption() == sentence


def test_ctrl_c_after_a_file_does_not_say_that_nothing_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_write_page", interrupted)
    words = ["forecast", "sdxl", "--json", str(tmp_path / "a.json"), "--html", "b.html", "--quiet"]
    assert _run(words, debug=False) == 130
    assert capfd.readouterr().err.strip() == (
        f"halftime: interrupted; {tmp_path / 'a.json'} is complete."
    )


def test_a_command_finds_its_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Journal] = []
    command = group.get_command(None, "doctor")  # type: ignore[arg-type]
    monkeypatch.setattr(command, "callback", lambda **_: seen.extend([journal(), journal()]))
    assert _run(["doctor"], debug=False) == 0
    assert seen[0] is seen[1]
    assert journal() is not seen[0]
