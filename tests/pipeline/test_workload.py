"""Workloads: from TOML, changed by options, refused before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from halftime.base.errors import BadFile, BadWorkload
from halftime.cli.options import parse_size, take_workload
from halftime.pipeline import workload
from halftime.records import Workload


def test_toml_then_options(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        'prompts = ["a cat", "a dog"]\nsteps = 12\ndtype = "bf16"\n[arguments]\nnum_frames = 9\n'
    )
    read = workload.read(path)
    assert read == Workload(
        prompts=("a cat", "a dog"), steps=12, dtype="bfloat16", arguments={"num_frames": 9}
    )
    values: dict[str, object] = {
        "workload_file": str(path),
        "steps": 4,
        "size": "64x32",
        "arguments": ("eta=0.5", "mode=x"),
    }
    changed = take_workload(values, "a model")
    assert (changed.steps, changed.width, changed.height) == (4, 64, 32)
    assert changed.arguments == {"eta": 0.5, "mode": "x"}
    assert changed.prompts == read.prompts


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"guidance": float("nan")}, "guidance is nan; it must be a finite number"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": "x"}, "not valid.*steps"),
        ({"dtype": "int4"}, "dtype 'int4' is not known. Allowed are: float32"),
        ({"prompts": ()}, "no prompts"),
        ({"width": 0}, "width is 0"),
        ({"speed": 1}, "speed"),
    ],
)
def test_refusals(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadWorkload, match=complaint):
        workload.change(Workload(), changes)


def test_broken_toml(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text("steps = \n")
    with pytest.raises(BadFile, match="line 1"):
        workload.read(path)


@pytest.mark.parametrize(
    ("text", "size"), [("128", (128, 128)), ("64x32", (64, 32)), ("64 × 32", (64, 32))]
)
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["big", "1x2x3", "-8", "64x", ""])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(BadWorkload, match="is not a size"):
        parse_size(text)


def test_equal_content_has_an_equal_hash_and_unequal_has_not() -> None:
    assert Workload(steps=30).content_hash() == Workload().content_hash()
    assert Workload(steps=29).content_hash() != Workload().content_hash()


def test_the_bundled_model_gets_its_own_guidance_where_none_is_given(tmp_path: Path) -> None:
    from halftime import bundled

    path = tmp_path / "w.toml"
    path.write_text("guidance = 4.0\n")
    assert take_workload({}, None).guidance == bundled.GUIDANCE
    assert take_workload({"guidance": 7.0}, None).guidance == 7.0
    assert take_workload({"workload_file": str(path)}, None).guidance == 4.0
    assert take_workload({}, "a model").guidance is None
