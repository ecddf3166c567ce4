"""The fixes on other architectures: what applies works, and leaves no trace.

A sample: `make breadth` does so for every architecture that can be built small.
"""

import numpy as np
import pytest
import torch

import halftime
from halftime.base.errors import DoesNotApply
from halftime.fix.apply import reasons
from halftime.records.recipe import Choice
from tiny_pipelines import PIPELINES

# Compilers and foreign runtimes take minutes; the others are tried wherever they say that they
# apply.
SLOW = {
    "denoiser-compile",
    "vae-compile",
    "openvino",
    "onnxruntime",
    "denoiser-quantize",
    "text-quantize",
}
SETTINGS: dict[str, dict[str, object]] = {
    "loop-graph": {"backend": "eager"},
    "solver-steps": {"steps": 3},
}


def result(pipeline, arguments: dict[str, object]) -> np.ndarray:  # type: ignore[no-untyped-def]
    made = pipeline(**arguments)
    first = made[0] if isinstance(made, tuple) else getattr(made, "images", None)
    first = made.frames if first is None else first
    one = first[0]
    return one.cpu().numpy() if isinstance(one, torch.Tensor) else np.asarray(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl_img2img", "flux", "wan"])
def test_every_fix_that_applies_works_and_is_undone(name: str) -> None:
    tiny = PIPELINES[name]
    pipeline = tiny.build()
    before = result(pipeline, tiny.arguments(3))
    tried = 0
    for fix, reason in reasons(pipeline).items():
        if reason or fix in SLOW:
            continue
        try:
            with halftime.applied(pipeline, [Choice(name=fix, settings=SETTINGS.get(fix, {}))]):
                inside = result(pipeline, tiny.arguments(3))
        except DoesNotApply:
            assert fix == "text-warmup"  # the only one that has to try
            continue
        tried += 1
        assert np.isfinite(inside).all(), fix
        if halftime.FIXES[fix].level == "bit-exact":
            assert np.array_equal(inside, before), fix
        assert np.array_equal(result(pipeline, tiny.arguments(3)), before), fix
    assert tried >= 8
