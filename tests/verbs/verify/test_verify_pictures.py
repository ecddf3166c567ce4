"""Folders of pictures, tripwires, metrics, the contact sheet and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import halftime
from halftime.base.errors import BadFile, BadInput, Unlike
from halftime.base.store import read_json
from halftime.records.verdict import Verdict
from halftime.verbs.verify.floor import EIGHT_BIT, eight_bit, floor_entries, noise_floor
from halftime.verbs.verify.metrics import METRICS, flip, kit, ms_ssim, psnr, rmse
from halftime.verbs.verify.pictures import (
    Picture,
    PictureSet,
    from_floats,
    paired,
    read_folder,
    write_folder,
)
from halftime.verbs.verify.run import VerifySettings, verdict_of
from halftime.verbs.verify.sheet import contact_sheet, difference, png
from halftime.verbs.verify.tripwires import broken


def drawing(seed: int, side: int = 96) -> np.ndarray:
    """A smooth random picture, so that neighbours agree as in real ones."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def shelf(change=lambda pixels: pixels, count: int = 12, label: str = "a") -> PictureSet:  # type: ignore[no-untyped-def]
    classes = ("photo-like", "hard-edged")
    pictures = [
        Picture(f"{i:02d}", change(drawing(i)), classes[i % 2], f"prompt {i}") for i in range(count)
    ]
    return PictureSet(label, tuple(pictures))


def blurred(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels).resize((12, 12), Image.Resampling.BOX)
    return np.asarray(small.resize(pixels.shape[:2], Image.Resampling.NEAREST))


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels.astype(int) + 2, 0, 255).astype(np.uint8)


def test_a_set_survives_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, shelf())
    again = read_folder(tmp_path)
    assert [(p.name, p.content_class, p.prompt) for p in again.pictures] == [
        (p.name, p.content_class, p.prompt) for p in shelf().pictures
    ]
    assert all(
        np.array_equal(p.pixels, q.pixels)
        for p, q in zip(again.pictures, shelf().pictures, strict=True)
    )


def test_subfolders_are_classes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(drawing(0)).save(tmp_path / "photos" / "one.png")
    assert [(p.name, p.content_class) for p in read_folder(tmp_path).pictures] == [
        ("photos/one", "photos")
    ]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is not a folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(BadFile, match="contains no pictures"):
        read_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(BadFile, match=r"broken\.png"):
        read_folder(tmp_path)


def test_names_must_agree() -> None:
    with pytest.raises(Unlike, match="lacks 2 of the pictures"):
        paired(shelf(), PictureSet("b", shelf().pictures[:-2]))


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.zeros((64, 64, 3), np.uint8), "black"),
        (np.full((64, 64, 3), 90, np.uint8), "one colour"),
        (np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8), "noise"),
    ],
)
def test_tripwires(pixels: np.ndarray, word: str) -> None:
    assert word in broken(Picture("x", pixels))
    assert not broken(Picture("x", drawing(0)))


def test_nan_is_caught_before_it_becomes_a_colour() -> None:
    values = drawing(0) / 255.0
    values[3, 3] = np.nan
    assert "NaN" in broken(from_floats(values, "x", "", ""))


@pytest.mark.parametrize("metric", [flip, ms_ssim, rmse])
def test_a_distance_is_zero_for_equal_pictures_and_grows(metric) -> None:  # type: ignore[no-untyped-def]
    picture = Picture("x", drawing(1))
    half = Picture(
        "x", ((picture.pixels.astype(int) + blurred(picture.pixels)) // 2).astype(np.uint8)
    )
    assert metric(picture, picture) == pytest.approx(0, abs=1e-6)
    assert 0 < metric(picture, half) < metric(picture, Picture("x", blurred(picture.pixels)))


def test_rmse_of_one_grey_level() -> None:
    dark, bright = (
        Picture("x", np.full((8, 8, 3), 100, np.uint8)),
        Picture("x", np.full((8, 8, 3), 101, np.uint8)),
    )
    assert rmse(dark, bright) == pytest.approx(1.0)
    assert psnr(1.0) == pytest.approx(48.13, abs=0.01)


def test_the_eight_bit_floor_is_half_the_values_by_one_level() -> None:
    picture = Picture("x", np.full((64, 64, 3), 100, np.uint8))
    assert rmse(picture, eight_bit(picture)) == pytest.approx(np.sqrt(0.5), rel=0.05)


def test_a_floor_is_the_largest_of_its_entries() -> None:
    tools = kit(list(shelf().pictures), "no judge", "no weights")
    entries = floor_entries(shelf(), {"rerun": shelf(), "batch": shelf(blurred)}, tools)
    floor = noise_floor(entries)
    assert floor["rmse"] == max(e.value for e in entries if e.metric == "rmse")
    assert {e.source for e in entries} == {EIGHT_BIT, "rerun", "batch"}
    assert noise_floor([e for e in entries if e.source != "batch"], strict=True)["rmse"] < 1e-6


class Words:
    """A judge that likes bright pictures."""

    name, has_aesthetic = "the test's judge", False

    def agreement(self, picture: np.ndarray, prompt: str) -> float:
        return float(picture.mean()) / 255

    def aesthetic(self, picture: np.ndarray) -> float:
        raise AssertionError("it has none")


def test_a_judge_scores_candidate_minus_baseline() -> None:
    tools = kit(list(shelf().pictures), Words(), "no weights")
    picture = shelf().pictures[0]
    brighter = Picture(
        picture.name,
        (picture.pixels // 2 + 128).astype(np.uint8),
        picture.content_class,
        picture.prompt,
    )
    assert tools.measure(picture, brighter)["agreement"] > 0
    assert "aesthetic" in tools.skipped
    assert set(tools.functions) <= set(METRICS)


def test_identical_sets_are_equivalent_and_blurred_ones_different() -> None:
    assert halftime.verify(shelf(), shelf(label="b")).verdict == "equivalent"
    verdict = halftime.verify(shelf(), shelf(blurred, label="b"))
    assert verdict.verdict == "different"
    assert {c.content_class for c in verdict.per_class} == {"all", "photo-like", "hard-edged"}
    assert verdict.worst_pairs[0].metrics["rmse"] >= verdict.worst_pairs[-1].metrics["rmse"] * 0.5


def test_one_black_picture_is_different_whatever_the_metrics_say() -> None:
    pictures = list(shelf().pictures)
    pictures[3] = Picture(
        pictures[3].name, np.zeros_like(pictures[3].pixels), pictures[3].content_class
    )
    verdict = halftime.verify(shelf(), PictureSet("b", tuple(pictures)))
    assert verdict.verdict == "different"
    assert verdict.reasons[0] == "picture 03: it is black"


def test_another_size_is_different() -> None:
    verdict = halftime.verify(shelf(), shelf(lambda pixels: pixels[:64]))
    assert verdict.verdict == "different"
    assert "96x64" in verdict.reasons[0]


def test_strict_finds_what_no_picture_shows() -> None:
    def one_value(pixels: np.ndarray) -> np.ndarray:
        changed = pixels.copy()
        changed[::8, ::8, 0] ^= 1
        return changed

    floors = {"rerun": shelf()}
    assert (
        verdict_of(shelf(), shelf(one_value), VerifySettings(floors=floors)).verdict == "equivalent"
    )
    assert (
        verdict_of(shelf(), shelf(one_value), VerifySettings(floors=floors, strict=True)).verdict
        == "different"
    )
    with pytest.raises(BadInput, match="second time"):
        VerifySettings(strict=True)


def test_the_contact_sheet_shows_every_worst_pair() -> None:
    verdict = halftime.verify(shelf(), shelf(blurred))
    sheet = contact_sheet(verdict, shelf(), shelf(blurred), rows=4)
    assert sheet.height > 4 * 192
    assert png(sheet).startswith(b"\x89PNG")
    assert difference(drawing(0), drawing(0)).max() == 0


def run(*arguments: str) -> int:
    from halftime.cli import _run

    return _run(["verify", *arguments], False)


def test_the_commands_exit_codes_and_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", shelf())
    write_folder(tmp_path / "b", shelf(blurred))
    shutil.copytree(tmp_path / "a", tmp_path / "same")
    assert run("a", "same") == 0
    assert run("a", "same", "--lora", "x", "--model", "m") == 2
    assert "leave --model, --lora out" in capsys.readouterr().err
    assert run("a", "b", "--json", "v.json", "--html", "v.html", "--sheet", "s.png") == 1
    contract = json.loads((tmp_path / "v.json").read_text())
    assert {"verdict", "per_class", "noise_floor", "worst_pairs"} <= contract.keys()
    assert read_json(tmp_path / "v.json", Verdict).verdict == "different"
    assert "data:image/png" in (tmp_path / "v.html").read_text()
    assert Image.open(tmp_path / "s.png").width > 400
    write_folder(tmp_path / "few", PictureSet("few", shelf().pictures[:2]))
    write_folder(tmp_path / "few_brighter", PictureSet("few", shelf(brighter).pictures[:2]))
    assert run("few", "few_brighter", "--quiet") == 3
    write_folder(tmp_path / "few_blurred", PictureSet("few", shelf(blurred).pictures[:2]))
    assert run("few", "few_blurred", "--quiet") == 1
    assert run("a", "nowhere") == 2
    assert "neither a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_baseline_against_a_plan_and_two_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, fix in (("exact", "progress-bar-off"), ("guided", "guidance-interval")):
        text = f'schema = 1\n[[fixes]]\nname = "{fix}"\n'
        settings = "settings = { start = 0.0, stop = 0.1 }\n" if fix == "guidance-interval" else ""
        (tmp_path / f"{name}.toml").write_text(text + settings, encoding="utf-8")
    small = (
        "--prompts",
        "6",
        "--steps",
        "4",
        "--size",
        "64",
        "--guidance",
        "9",
        "--floor-prompts",
        "2",
        "--quiet",
    )
    assert run("baseline", "exact.toml", *small, "--json", "v.json") == 0
    verdict = read_json(tmp_path / "v.json", Verdict)
    assert {entry.source for entry in verdict.floor_entries} == {
        "8-bit",
        "one level",
        "rerun",
        "batch",
        "threads",
        "kernels",
    }
    assert verdict.environment is not None
    assert run("exact.toml", "guided.toml", *small, "--strict") == 1
