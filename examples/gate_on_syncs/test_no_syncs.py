"""Fail a pull request that makes the denoising loop wait for the GPU. Runs on any CPU runner; no
GPU, no large weights.

`assert_no_syncs_in_loop` comes with halftime's pytest plugin. Waits do not depend on weights or
size, so a tiny copy of your pipeline does; here it is the bundled model.
"""

import pytest

import halftime


@pytest.fixture
def pipeline():
    # replace by a tiny copy of yours, built from its configurations
    return halftime.load_pipeline()


def test_the_denoising_loop_never_waits(assert_no_syncs_in_loop, pipeline):
    assert_no_syncs_in_loop(pipeline, prompt="a red apple", num_inference_steps=4)
