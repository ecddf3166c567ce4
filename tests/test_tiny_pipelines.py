"""The tiny pipelines themselves: they run, give finite output, and are the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from tiny_pipelines import PIPELINES


def output(name: str) -> np.ndarray:
    tiny = PIPELINES[name]
    result = tiny.build()(**tiny.arguments())[0]
    return np.asarray(result, dtype=float)


@pytest.mark.parametrize("name", PIPELINES)
def test_runs_whole_and_the_same_each_time(name: str) -> None:
    first = output(name)
    assert np.isfinite(first).all()
    assert np.ptp(first) > 0
    np.testing.assert_array_equal(first, output(name))
