"""Folders as people have them: films, links, hidden files, names of other systems, formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import halftime
from halftime.base.errors import BadFile, Unlike
from halftime.base.store import read_report
from halftime.records.verdict import Verdict
from halftime.verbs.verify.pictures import PictureSet, from_floats, read_folder


def drawing(seed: int, side: int = 40) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def shelf(folder: Path, count: int = 5, suffix: str = ".png", **options: object) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        drawing(number).save(folder / f"{number:04d}{suffix}", **options)
    return folder


@pytest.mark.parametrize(("suffix", "options"), [
    (".gif", {}), (".webp", {"lossless": True}), (".png", {}), (".tif", {}),
])  # fmt: skip
def test_of_a_picture_that_moves_every_frame_counts(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    for folder, last in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        frames = [drawing(number).quantize(64).convert("RGB") for number in (0, 1, last)]
        frames[0].save(
            tmp_path / folder / f"film{suffix}",
            save_all=True,
            append_images=frames[1:],
            **options,
        )
    (first,), (second,) = (read_folder(tmp_path / name).pictures for name in "ab")
    assert first.pixels.shape == (120, 40, 3)
    same = (first.pixels == second.pixels).all(axis=(1, 2))
    assert same[:80].all()
    assert not same[80:].any()


def test_pages_of_unequal_size_are_no_picture(tmp_path: Path) -> None:
    drawing(0).save(tmp_path / "x.tif", save_all=True, append_images=[drawing(1, side=50)])
    with pytest.raises(BadFile, match="its pages differ in size"):
        read_folder(tmp_path)


def test_pictures_in_formats_without_loss_are_the_same(tmp_path: Path) -> None:
    pngs = read_folder(shelf(tmp_path / "png"))
    tiffs = read_folder(shelf(tmp_path / "tif", suffix=".tif"))
    for before, now in zip(pngs.pictures, tiffs.pictures, strict=True):
        assert (before.pixels == now.pixels).all()


def test_what_stands_beside_pictures_is_named(tmp_path: Path) -> None:
    folder = shelf(tmp_path / "a")
    (folder / "film.mp4").touch()
    (folder / "latents.npy").touch()
    (folder / "notes.txt").touch()
    (folder / "prompts.toml").write_text('[[pictures]]\nfile = "0000.jpg"\nclass = 3\n')
    notes = halftime.verify(folder, folder).notes
    assert any("Not compared: film.mp4 and 1 more (write its frames" in note for note in notes)
    assert any("names '0000.jpg', and there is no such file" in note for note in notes)
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.mp4").touch()
    with pytest.raises(BadFile, match=r"contains no pictures.* It holds film.mp4"):
        read_folder(films)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    photographs = shelf(tmp_path / "elsewhere")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "photo").symlink_to(photographs)
    (folder / "again").symlink_to(photographs)
    (folder / "circle").symlink_to(folder)
    pictures = read_folder(folder).pictures
    assert [p.content_class for p in pictures] == ["again"] * 5 + ["photo"] * 5


def test_what_systems_hide_is_no_picture(tmp_path: Path) -> None:
    folder = shelf(tmp_path / "a")
    (folder / "._0000.png").write_bytes(b"\0\5\x16\7")
    (folder / "x.png").mkdir()
    shelf(folder / ".ipynb_checkpoints")
    assert len(read_folder(folder).pictures) == 5


def test_accents_pair_however_a_system_writes_them(tmp_path: Path) -> None:
    for folder, name in (("a", "caf\u00e9"), ("b", "cafe\u0301")):
        (tmp_path / folder).mkdir()
        drawing(0).save(tmp_path / folder / f"{name}.png")
    verdict = halftime.verify(tmp_path / "a", tmp_path / "b")
    assert verdict.pairs == 1


@pytest.mark.parametrize(("name", "mode", "values"), [
    ("x.tif", "F", np.linspace(0, 1, 400, dtype=np.float32)),
    ("x.tif", "I", np.arange(400, dtype=np.int32) * 1000),
])  # fmt: skip
def test_numbers_whose_white_is_unknown_are_refused(
    tmp_path: Path, name: str, mode: str, values: np.ndarray
) -> None:
    Image.fromarray(values.reshape(20, 20), mode).save(tmp_path / name)
    with pytest.raises(BadFile, match="what is white in it is unknown"):
        read_folder(tmp_path)


def test_pictures_too_small_for_the_metrics_are_refused(tmp_path: Path) -> None:
    drawing(0).resize((200, 4)).save(tmp_path / "x.png")
    with pytest.raises(BadFile, match="200x4 pixels are too few; at least 5 a side"):
        read_folder(tmp_path)


def test_latents_that_are_no_numbers_break_a_picture_and_no_file(tmp_path: Path) -> None:
    def drawn(broken: bool) -> PictureSet:
        rows = []
        for number in range(5):
            latent = np.random.default_rng(number).standard_normal((4, 5, 5)).astype(np.float32)
            if broken and number == 2:
                latent[0, 0, 0] = np.inf
            values = np.asarray(drawing(number)) / 255
            rows.append(from_floats(values, f"{number}", "unsorted", "", latent))
        return PictureSet("drawn", tuple(rows))

    verdict = halftime.verify(drawn(broken=False), drawn(broken=True))
    assert verdict.verdict == "different"
    assert verdict.reasons[0] == "picture 2: its latents hold NaN or infinity"
    verdict.save(tmp_path / "verdict.json")
    assert read_report(tmp_path / "verdict.json", Verdict).per_class == verdict.per_class


def test_a_floor_of_another_size_is_refused(tmp_path: Path) -> None:
    folder, floor = shelf(tmp_path / "a"), tmp_path / "floor"
    floor.mkdir()
    for number in range(5):
        drawing(number, side=50).save(floor / f"{number:04d}.png")
    with pytest.raises(Unlike, match="has 50x50 pixels, and the baseline's 40x40"):
        halftime.verify(folder, folder, floors={"made again": read_folder(floor)})
