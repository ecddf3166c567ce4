"""The floor: what is left out of it, and what refuses a verdict altogether."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from halftime.base.errors import MissingExtra, Unrepeatable
from halftime.cli import _run
from halftime.verbs.verify.floor import EIGHT_BIT, ONE_LEVEL
from halftime.verbs.verify.pictures import Picture, PictureSet
from halftime.verbs.verify.run import check_repeats, verify


def drawn(seed: int, count: int = 8) -> PictureSet:
    """Smooth pictures that have nothing in common."""
    rng = np.random.default_rng(seed)
    pictures = [
        rng.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(24, 0).repeat(24, 1)
        for _ in range(count)
    ]
    return PictureSet(
        f"seed {seed}", tuple(Picture(str(i), pixels) for i, pixels in enumerate(pictures))
    )


def nudged(pictures: PictureSet, grey: int) -> PictureSet:
    """The same, some grey levels brighter."""
    brighter = [
        replace(p, pixels=np.clip(p.pixels.astype(int) + grey, 0, 255).astype(np.uint8))
        for p in pictures.pictures
    ]
    return PictureSet(pictures.label, tuple(brighter))


def test_a_baseline_that_does_not_repeat_itself_is_refused() -> None:
    """Against such a floor anything would be equivalent."""
    for function in (
        lambda: verify(drawn(0), drawn(1), floors={"rerun": drawn(2)}),
        lambda: check_repeats(drawn(0), drawn(2)),
    ):
        with pytest.raises(
            Unrepeatable, match="does not repeat itself: by flip, the same prompts and seeds, drawn"
        ):
            function()
    check_repeats(drawn(0), drawn(0))
    check_repeats(drawn(0), nudged(drawn(0), 2))


def test_a_folder_that_is_not_the_baseline_again_is_named() -> None:
    with pytest.raises(Unrepeatable, match="the set 'folder 1' came out"):
        verify(drawn(0), drawn(0), floors={"folder 1": drawn(3)})


def test_a_variation_that_is_not_harmless_is_left_out_and_said() -> None:
    """A pipeline may draw its noise by batch: then its pictures in batches are others, and no
    measure of noise."""
    floors = {"rerun": drawn(0), "batch": drawn(4)}
    verdict = verify(drawn(0), drawn(1), floors=floors)
    assert verdict.verdict == "different"
    assert (
        "A batch of two draws other pictures here, so it is left out of the floor." in verdict.notes
    )
    assert {entry.source for entry in verdict.floor_entries} == {
        EIGHT_BIT,
        ONE_LEVEL,
        "rerun",
        "batch",
    }
    assert verdict.noise_floor == verify(drawn(0), drawn(1), floors={"rerun": drawn(0)}).noise_floor


def test_a_baseline_of_one_picture_again_and_again_is_said() -> None:
    grey = PictureSet("grey", tuple(replace(drawn(0).pictures[0], name=str(i)) for i in range(8)))
    assert any("hardly differ from one another" in note for note in verify(grey, grey).notes)


@pytest.mark.parametrize("package", ["flip_evaluator", "pytorch_msssim"])
def test_no_verdict_without_the_metrics_that_see_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra,
        match=r"A verdict on pictures .* needs the package .* install 'halftime\[verify\]'",
    ):
        verify(drawn(0), drawn(0))
    assert _run(["verify", "baseline", "baseline"], debug=False) == 2
    assert _run(["tune", "--budget", "1m"], debug=False) == 2
