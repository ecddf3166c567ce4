"""The pytest fixture, as a maintainer's own test would use it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from halftime.records.audit import Audit
from tiny_pipelines import PIPELINES


def test_a_loop_that_never_waits_passes(assert_no_syncs_in_loop: Callable[..., Audit]) -> None:
    tiny = PIPELINES["sdxl"]
    assert assert_no_syncs_in_loop(tiny.build(), **tiny.arguments(4)).capturable


def test_a_loop_that_waits_fails_by_line(assert_no_syncs_in_loop: Callable[..., Audit]) -> None:
    tiny = PIPELINES["cogvideox"]
    with pytest.raises(AssertionError, match=r"scheduling_ddim_cogvideox\.py:\d+ waits"):
        assert_no_syncs_in_loop(tiny.build(), **tiny.arguments(4))
