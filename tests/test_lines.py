"""Files that grow by lines: what was cut off is passed over, and spoils nothing after it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.errors import BadFile
from halftime.base.lines import append_lines, check_grows, read_lines
from halftime.records.gate import Acceptance

reasons = st.text(max_size=20).filter(lambda text: text.isprintable() or "\n" in text)


def line(reason: str) -> Acceptance:
    return Acceptance(what="speed", at_most=0.1, reason=reason, date="2026-11-29")


@given(
    before=st.lists(reasons, max_size=3),
    cut=st.integers(min_value=0),
    after=st.lists(reasons, min_size=1, max_size=3),
)
def test_wherever_the_file_is_cut_whole_lines_stay(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], cut: int, after: list[str]
) -> None:
    file = tmp_path_factory.mktemp("lines") / "history.jsonl"
    append_lines(file, tuple(map(line, before)))
    data = file.read_bytes()
    end = cut % (len(data) + 1)
    file.write_bytes(data[:end])
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    # a line that lacks its line feed alone is whole
    whole = sum(place - 1 <= end for place in ends)
    append_lines(file, tuple(map(line, after)))
    lines = read_lines(file, Acceptance)
    assert [record.reason for record in lines.records] == [*before[:whole], *after]
    assert len(lines.broken) == (end not in (0, *ends, *(place - 1 for place in ends)))


def test_what_no_record_is_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append_lines(file, (line("a"),))
    with file.open("ab") as rows:
        rows.write(b'\n<<<<<<< HEAD\n{"what": "speed", "later": 1}\n\xff\xfe\n   \n')
    append_lines(file, (line("b"),))
    lines = read_lines(file, Acceptance)
    assert [record.reason for record in lines.records] == ["a", "b"]
    assert lines.broken == (3, 4, 5)


def test_a_folder_is_made_and_a_reason_given(tmp_path: Path) -> None:
    file = tmp_path / "new" / "history.jsonl"
    check_grows(file, "--history")
    append_lines(file, (line("a"),))
    for path in (tmp_path, "-"):
        with pytest.raises(BadFile, match=r"--history .*: lines cannot be added"):
            check_grows(path, "--history")
    with pytest.raises(BadFile, match="cannot write"):
        append_lines(file / "below", (line("a"),))


def test_a_file_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "history.jsonl"
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, _: path != file)
    with pytest.raises(BadFile, match="lines cannot be added"):
        check_grows(file, "--history")


class FullDisk(io.FileIO):
    """Takes half of what is written."""

    def write(self, data: bytes) -> int:
        return super().write(data[: len(data) // 2])


def test_a_full_disk_leaves_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.jsonl"
    append_lines(file, (line("whole"),))
    before, real = file.read_bytes(), Path.open

    def opened(path: Path, mode: str = "r", **settings: object) -> object:
        return FullDisk(path, "ab") if mode == "ab" else real(path, mode, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(BadFile, match="No space left on device"):
            append_lines(file, (line("half of it"),))
    assert file.read_bytes() == before
