"""Pictures from a pipeline: seeds, batches, latents, the harmless variations, and a planted
difference."""

import numpy as np
import pytest

import halftime
from halftime.records import Workload
from halftime.verbs.verify.render import PicturePrompt, floor_sets, prompt_set, render

WORKLOAD = Workload(steps=2, width=64, height=64, seed=5)
PROMPTS = [
    PicturePrompt(f"a 3D render of a {word}", "photo-like", word) for word in ("cat", "dog", "car")
]


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    return halftime.bundled.load()


def test_a_picture_has_its_own_seed_whatever_its_batch(pipeline) -> None:  # type: ignore[no-untyped-def]
    singles = render(pipeline, WORKLOAD, PROMPTS, "one by one")
    doubles = render(pipeline, WORKLOAD, PROMPTS, "by two", batch=2)
    assert [p.name for p in singles.pictures] == ["cat", "dog", "car"]
    for single, batched in zip(singles.pictures, doubles.pictures, strict=True):
        assert np.abs(single.pixels.astype(int) - batched.pixels).max() <= 2
        assert single.latent is not None
        assert single.latent.shape == (4, 8, 8)
    assert not np.array_equal(singles.pictures[0].pixels, singles.pictures[1].pixels)


def test_the_pipeline_is_left_as_it_was(pipeline) -> None:  # type: ignore[no-untyped-def]
    before = set(vars(pipeline.vae)), dict(vars(pipeline))
    render(pipeline, WORKLOAD, PROMPTS[:1], "x")
    assert (set(vars(pipeline.vae)), dict(vars(pipeline))) == before


def test_floor_sets_are_the_same_pictures_nearly(pipeline) -> None:  # type: ignore[no-untyped-def]
    base = render(pipeline, WORKLOAD, PROMPTS[:2], "base")
    sets = floor_sets(pipeline, WORKLOAD, PROMPTS[:2])
    assert set(sets) == {"rerun", "batch", "threads", "kernels"}
    for other in sets.values():
        for one, two in zip(base.pictures, other.pictures, strict=True):
            assert np.abs(one.pixels.astype(int) - two.pixels).max() <= 2


def test_a_fix_is_seen_in_the_pictures(pipeline) -> None:  # type: ignore[no-untyped-def]
    base = render(pipeline, WORKLOAD, PROMPTS, "base")
    with halftime.applied(pipeline, ["denoiser-dtype"]):
        changed = render(pipeline, WORKLOAD, PROMPTS, "bf16")
    assert any(
        not np.array_equal(a.pixels, b.pixels)
        for a, b in zip(base.pictures, changed.pictures, strict=True)
    )


def test_prompts_come_from_the_workload_or_the_bundled_set() -> None:
    assert {p.content_class for p in prompt_set(Workload(), 6)} == {
        "photo-like",
        "drawing",
        "hard-edged",
    }
    own = prompt_set(Workload(prompts=("a", "b")), 3)
    assert [p.text for p in own] == ["a", "b", "a"]
    assert len({p.name for p in own}) == 3
