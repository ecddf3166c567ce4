"""The tiny pipelines themselves: they run, give finite output, and are the same each time."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from fix_cells import drawing
from tiny_pipelines import BREADTH, FAMILIES, NOT_BUILT, PIPELINES
from tiny_pipelines.unbuilt import exported, is_deprecated

ALL = {**PIPELINES, **FAMILIES, **BREADTH}


def output(name: str) -> np.ndarray:
    tiny = ALL[name]
    pipeline = tiny.build()
    return drawing(lambda: pipeline(**tiny.arguments()))


def check(name: str) -> None:
    first = output(name)
    assert np.isfinite(first).all()
    assert np.ptp(first) > 0
    np.testing.assert_array_equal(first, output(name))


@pytest.mark.parametrize("name", PIPELINES)
def test_runs_whole_and_the_same_each_time(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_run_whole_and_the_same_each_time(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", ["ltx2", "modular_flux", "sd15_controlnet_pag", "ddpm"])
def test_a_sample_of_the_others_runs(name: str) -> None:
    check(name)


def test_tables_do_not_overlap() -> None:
    assert len(ALL) == len(PIPELINES) + len(FAMILIES) + len(BREADTH)


@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_exists(name: str) -> None:
    assert hasattr(diffusers, name)


@pytest.mark.slow
def test_every_exported_pipeline_is_built_or_named() -> None:
    built = {type(tiny.build()).__name__ for tiny in ALL.values()}
    built.add("Flux2KleinBaseModularPipeline")  # its blocks make a pipeline of the class without
    built.add("Wan22ModularPipeline")  # likewise: a WanModularPipeline
    assert not built & NOT_BUILT.keys()
    current = {name for name, kind in exported().items() if not is_deprecated(kind)}
    assert current - built - NOT_BUILT.keys() == set()
