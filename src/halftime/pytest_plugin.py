"""A pytest plugin: GPU regression checks of a pipeline on a CPU runner.

def test_the_loop_never_waits(assert_no_syncs_in_loop):
    assert_no_syncs_in_loop(make_tiny_pipeline(), prompt="a cat", num_inference_steps=4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from halftime.records.audit import Audit

Check = Callable[..., "Audit"]


def assert_no_syncs_in_loop(
    pipeline: DiffusionPipeline, *, allowed: int = 0, **arguments: object
) -> Audit:
    """Audit one call of `pipeline` with `arguments`; fail where its denoising loop waits more than
    `allowed` times.

    Returns the Audit. AssertionError names every line that waits; a call without a denoising loop
    fails too.
    """
    # Here, since pytest loads this module wherever halftime is installed.
    from halftime.records import Workload
    from halftime.verbs.audit.run import audit

    steps = arguments.get("num_inference_steps")
    record = audit(pipeline, Workload(steps=steps if isinstance(steps, int) else 4), **arguments)
    if record.in_loop_total > allowed or not record.steps_seen:
        lines = "\n  ".join(record.because)
        raise AssertionError(
            f"{record.in_loop_total} waits in the denoising loop, {allowed} allowed:\n  {lines}"
        )
    return record


@pytest.fixture(name="assert_no_syncs_in_loop")
def _assert_no_syncs_in_loop() -> Check:
    """`assert_no_syncs_in_loop(pipeline, **arguments)`: fail where the denoising loop would wait on
    a GPU."""
    return assert_no_syncs_in_loop
