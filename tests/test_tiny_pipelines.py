"""The tiny pipelines themselves: they run, give finite output, and are the same each time."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from documented import ROOT
from fix_cells import drawing
from halftime.base.store import read_json
from halftime.records.benchmark import Benchmark
from tiny_pipelines import BREADTH, FAMILIES, NOT_BUILT, PIPELINES
from tiny_pipelines.unbuilt import exported, is_deprecated

ALL = {**PIPELINES, **FAMILIES, **BREADTH}
MATRIX = ROOT / "benchmarks" / "results" / "fix_breadth.json"
# One of each kind: by what it is called with, what it draws, its loops and its blocks. `make
# breadth` draws twice with every one of the others.
SAMPLE = (
    "sd15_pag",
    "marigold_depth",
    "flux_kontext",
    "dit",
    "deepfloyd_if",
    "stable_unclip",
    "stable_audio",
    "hunyuan_video",
    "wan_vace",
    "ltx2",
    "modular_flux",
    "ddpm",
)


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


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_others_runs(name: str) -> None:
    check(name)


def test_tables_do_not_overlap() -> None:
    assert len(ALL) == len(PIPELINES) + len(FAMILIES) + len(BREADTH)


@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_exists(name: str) -> None:
    assert hasattr(diffusers, name)


def test_every_exported_pipeline_is_built_or_named() -> None:
    """By the classes that `make breadth` wrote down; one that it has not built is built here."""
    rows = read_json(MATRIX, Benchmark).result["families"]
    classes = {name: rows.get(name, {}).get("class") for name in ALL}
    built = {kind or type(ALL[name].build()).__name__ for name, kind in classes.items()}
    built.add("Flux2KleinBaseModularPipeline")  # its blocks make a pipeline of the class without
    built.add("Wan22ModularPipeline")  # likewise: a WanModularPipeline
    assert not built & NOT_BUILT.keys()
    current = {name for name, kind in exported().items() if not is_deprecated(kind)}
    assert current - built - NOT_BUILT.keys() == set()
