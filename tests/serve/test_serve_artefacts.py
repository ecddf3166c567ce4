"""Saved compile artefacts: a folder that Inductor fills, and that a later start finds filled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from halftime.errors import BadFile
from halftime.serve.artefacts import use


def test_a_folder_counts_once_it_holds_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "before")
    assert use(None) is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "before"
    folder = tmp_path / "kept" / "here"
    assert use(str(folder)) is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    (folder / "kernel.so").touch()
    assert use(str(folder)) == str(folder)


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match="Name a folder"):
        use(str(tmp_path / "file"))
