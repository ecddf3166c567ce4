"""The tiny pipelines themselves: they run, give finite output, and are the same each time."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from tiny_pipelines import FAMILIES, NOT_BUILT, PIPELINES


def output(name: str) -> np.ndarray:
    tiny = {**PIPELINES, **FAMILIES}[name]
    result = tiny.build()(**tiny.arguments())[0]
    return np.asarray(result, dtype=float)


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


def test_tables_do_not_overlap() -> None:
    assert not PIPELINES.keys() & FAMILIES.keys()


@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_exists(name: str) -> None:
    assert hasattr(diffusers, name)
