"""Rare faults, transparent and rotated pictures, and metrics that stand aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import halftime
from halftime.base.errors import BadFile
from halftime.base.stats import largest_share
from halftime.records.verdict import Verdict
from halftime.report.verify import report_of, summary_of
from halftime.verbs.verify.decide import SENSIBLE, compare, overall
from halftime.verbs.verify.floor import ONE_LEVEL, floor_entries
from halftime.verbs.verify.metrics import kit, largest_block
from halftime.verbs.verify.outliers import visible_share
from halftime.verbs.verify.pictures import Picture, PictureSet, read_folder, write_folder

Change = Callable[[np.ndarray], np.ndarray]


def drawing(seed: int, side: int = 96) -> np.ndarray:
    """A smooth random picture, so that neighbours agree as in real ones."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def shelf(count: int, label: str = "a") -> PictureSet:
    return PictureSet(label, tuple(Picture(f"{i:04d}", drawing(i)) for i in range(count)))


def with_changed(pictures: PictureSet, change: Change, *indices: int) -> PictureSet:
    """The same set with some pictures changed."""
    changed = [
        replace(p, pixels=change(p.pixels)) if i in indices else p
        for i, p in enumerate(pictures.pictures)
    ]
    return PictureSet("b", tuple(changed))


def replaced(_: np.ndarray) -> np.ndarray:
    return drawing(9999)


def with_a_patch(pixels: np.ndarray) -> np.ndarray:
    copy = pixels.copy()
    copy[40:52, 40:52] = 255 - copy[40:52, 40:52]
    return copy


def noisy(pictures: PictureSet) -> PictureSet:
    """Every picture a grey level off here and there, as rounding does."""
    rng = np.random.default_rng(7)
    steps = [rng.integers(-1, 2, p.pixels.shape) for p in pictures.pictures]
    return PictureSet(
        "b",
        tuple(
            replace(p, pixels=np.clip(p.pixels + step, 0, 255).astype(np.uint8))
            for p, step in zip(pictures.pictures, steps, strict=True)
        ),
    )


# ---- rare faults


@pytest.mark.parametrize(("count", "wrong"), [(24, (5,)), (30, (5, 20, 29)), (4, (1,))])
def test_a_replaced_picture_among_good_ones_is_different(
    count: int, wrong: tuple[int, ...]
) -> None:
    verdict = halftime.verify(shelf(count), with_changed(noisy(shelf(count)), replaced, *wrong))
    assert verdict.verdict == "different"
    assert {outlier.name for outlier in verdict.outliers} == {f"{i:04d}" for i in wrong}
    assert any(f"picture {wrong[0]:04d}: as far from the" in text for text in verdict.reasons)
    assert verdict.visible is not None
    assert verdict.visible.different == len(wrong)


def test_a_small_patch_in_one_picture_is_different() -> None:
    verdict = halftime.verify(shelf(24), with_changed(noisy(shelf(24)), with_a_patch, 3))
    assert verdict.verdict == "different"
    assert [outlier.name for outlier in verdict.outliers] == ["0003"]
    assert "in one block of 8x8 pixels and others do not" in verdict.reasons[0]


def test_harmless_changes_have_no_outliers() -> None:
    verdict = halftime.verify(shelf(24), noisy(shelf(24)))
    assert verdict.verdict == "equivalent"
    assert not verdict.outliers


def test_the_share_of_visibly_different_pictures_is_bounded() -> None:
    assert largest_share(0, 24) == pytest.approx(1 - 0.05 ** (1 / 24))
    assert largest_share(0, 248) == pytest.approx(0.012, abs=1e-4)
    assert largest_share(3, 20) == pytest.approx(0.344, abs=1e-3)  # Clopper and Pearson's table
    assert largest_share(5, 5) == 1.0
    rows = [{"flip": 0.01, "flip_local": 0.02}] * 20 + [{"flip": 0.01, "flip_local": 0.2}] * 2
    floor = {"flip": 0.01, "flip_local": 0.02}
    share = visible_share(rows, floor, margin=3.0, broken=1)
    assert (share.pairs, share.different) == (23, 3)
    assert share.at_most == largest_share(3, 23)


def test_the_bound_is_in_the_summary_and_the_report() -> None:
    verdict = halftime.verify(shelf(24), noisy(shelf(24)))
    assert "at most 11.7 % (95 % confidence) of pictures differ visibly" in summary_of(verdict)
    verdict = halftime.verify(shelf(24), with_changed(noisy(shelf(24)), replaced, 5))
    report = report_of(verdict)
    assert any(section.title == "Single pairs" for section in report.sections)
    assert "1 of 24 pictures differs visibly" in str(report)


def test_verdicts_of_before_still_load() -> None:
    data = msgspec.to_builtins(halftime.verify(shelf(6), shelf(6)))
    for name in ("outliers", "visible"):
        del data[name]
    for row in data["per_class"]:
        del row["stands_aside"]
    verdict = msgspec.convert(data, Verdict)
    assert verdict.visible is None
    assert summary_of(verdict)
    assert report_of(verdict)


# ---- files


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)  # type: ignore[arg-type]
    return folder


def with_alpha(pixels: np.ndarray, alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], alpha, np.uint8)]))


@pytest.mark.parametrize("side", ["drawing", "white"])
def test_a_transparent_picture_is_not_an_opaque_one(tmp_path: Path, side: str) -> None:
    for i in range(6):
        pixels = drawing(i)
        if side == "white":  # on a white page nothing shows; on a black one everything
            pixels = np.maximum(pixels, 250)
        saved(tmp_path / "a", f"{i}.png", with_alpha(pixels, 255))
        saved(tmp_path / "b", f"{i}.png", with_alpha(pixels, 0))
        saved(tmp_path / "c", f"{i}.png", with_alpha(pixels, 128))
    assert halftime.verify(tmp_path / "a", tmp_path / "b").verdict == "different"
    assert halftime.verify(tmp_path / "c", tmp_path / "c").verdict == "equivalent"


def test_alpha_survives_its_folder(tmp_path: Path) -> None:
    original = with_alpha(drawing(0), 128)
    write_folder(tmp_path / "again", read_folder(saved(tmp_path / "a", "x.png", original)))
    copy = np.asarray(Image.open(tmp_path / "again" / "x.png"))
    assert np.abs(copy.astype(int) - np.asarray(original)).max() <= 2


def test_a_palette_with_transparency_has_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(drawing(0)).quantize(16)
    saved(tmp_path / "a", "x.png", image, transparency=0)
    (picture,) = read_folder(tmp_path / "a").pictures
    assert picture.alpha is not None
    assert 0 < (picture.alpha == 0).mean() < 1
    assert (picture.pixels[picture.alpha == 0] == 255).all()


def test_sixteen_bit_pictures_are_not_clipped(tmp_path: Path) -> None:
    grey = drawing(0)[..., 0]
    saved(tmp_path / "a", "x.png", Image.fromarray(grey.astype(np.uint16) * 257))
    (picture,) = read_folder(tmp_path / "a").pictures
    assert np.array_equal(picture.pixels, grey[..., None].repeat(3, axis=-1))


def test_the_camera_s_orientation_counts(tmp_path: Path) -> None:
    image = Image.fromarray(drawing(0)[:64])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to look at it
    saved(tmp_path / "a", "x.png", image, exif=exif)
    (picture,) = read_folder(tmp_path / "a").pictures
    assert np.array_equal(picture.pixels, np.rot90(np.asarray(image), -1))


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a", "0000.png", Image.fromarray(drawing(0)))
    saved(tmp_path / "a", "0000.jpg", Image.fromarray(drawing(1)))
    with pytest.raises(BadFile, match=r"two pictures called '0000': 0000\.jpg and 0000\.png"):
        read_folder(tmp_path / "a")


class Brightness:
    """A judge that likes bright pictures."""

    name, has_aesthetic = "the test's judge", False

    def agreement(self, picture: np.ndarray, prompt: str) -> float:
        return float(picture.mean()) / 255

    def aesthetic(self, picture: np.ndarray) -> float:
        raise AssertionError("it has none")


# ---- metrics that stand aside


def test_what_flip_sees_nowhere_ms_ssim_does_not_decide() -> None:
    """Dark, flat pictures two levels less red: structure by MS-SSIM, invisible by FLIP."""
    dark = [Picture(str(i), (drawing(i) * [0.02, 0.2, 0.2]).astype(np.uint8)) for i in range(8)]
    less_red = [replace(p, pixels=np.maximum(p.pixels, [2, 0, 0]) - [2, 0, 0]) for p in dark]
    changed = [replace(p, pixels=p.pixels.astype(np.uint8)) for p in less_red]
    verdict = halftime.verify(PictureSet("a", tuple(dark)), PictureSet("b", tuple(changed)))
    (structure,) = [c for c in verdict.per_class if c.metric == "ms_ssim"]
    assert structure.decision == "different"
    assert not structure.decides
    assert verdict.verdict == "equivalent"
    assert any(note.startswith("ms_ssim stands aside (all): FLIP sees") for note in verdict.notes)


def test_a_patch_that_flip_sees_in_a_block_is_found_by_ms_ssim() -> None:
    everywhere = with_changed(shelf(12), with_a_patch, *range(12))
    verdict = halftime.verify(shelf(12), everywhere)
    assert {c.metric: c.decision for c in verdict.per_class}["flip"] != "different"
    assert verdict.verdict == "different"


def test_a_block_is_the_largest_of_its_means() -> None:
    errors = np.zeros((20, 30), np.float32)
    errors[8:16, 16:24] = 0.5
    assert largest_block(errors) == 0.5
    assert largest_block(errors[:4, :4]) == 0.0
    assert largest_block(np.full((3, 20), 0.25, np.float32)) == 0.25


def test_a_judge_that_cannot_decide_stands_aside() -> None:
    """A floor far below its scatter: it would have asked for 142,732 prompts."""
    rng = np.random.default_rng(0)
    rows = [{"flip": 0.005, "agreement": float(x)} for x in rng.normal(0, 0.01, 12)]
    floor = {"flip": 0.01, "agreement": 0.00013}
    comparisons = compare(rows, ["x"] * 12, floor, 3.0)
    agreement = comparisons[-1]
    assert agreement.prompts_needed is not None
    assert agreement.prompts_needed > SENSIBLE
    assert agreement.stands_aside == f"it would need {agreement.prompts_needed:,} prompts"
    assert overall(comparisons) == "equivalent"
    strict = compare(rows, ["x"] * 12, floor, 3.0, strict=True)
    assert overall(strict) == "inconclusive"


def test_a_judge_s_scores_are_not_those_of_a_picture_that_is_gone() -> None:
    """A new picture may be where an old one was in memory."""
    judge = Brightness()
    tools = kit([Picture("x", drawing(0), prompt="x")], judge, "none").only({"agreement"})
    grey = Picture("x", np.full((64, 64, 3), 100, np.uint8), prompt="x")
    for level in range(101, 200):
        brighter = replace(grey, pixels=np.full((64, 64, 3), level, np.uint8))
        assert tools.measure(grey, brighter)["agreement"] == pytest.approx((level - 100) / 255)


def test_the_judge_s_floor_comes_from_what_changes_nothing() -> None:
    """It averages single values out, so a dither alone says that it repeats itself exactly."""

    pictures = PictureSet("a", tuple(replace(p, prompt="x") for p in shelf(4).pictures))
    tools = kit(list(pictures.pictures), Brightness(), "none")
    entries = {(e.metric, e.source): e.value for e in floor_entries(pictures, {}, tools)}
    assert ("flip", ONE_LEVEL) not in entries
    assert entries["agreement", ONE_LEVEL] == pytest.approx(1 / 255, rel=0.05)
    assert entries["agreement", ONE_LEVEL] > 3 * entries["agreement", "8-bit"]
