"""Applied and undone, a pipeline gives bit-identical pictures: every fix, and random subsets of
them."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import halftime
from halftime.base.errors import DoesNotApply
from halftime.fix.apply import choose
from halftime.pipeline.device import device_of
from halftime.records.recipe import Choice, Plan

# Settings that keep a test short, or that a fix needs to apply at all.
QUICK: dict[str, dict[str, object]] = {
    "loop-graph": {"backend": "eager"},
    "tiny-vae": {"source": "bundled"},
    "openvino": {"components": ["vae"]},
    "onnxruntime": {"components": ["vae"]},
}
COMPILED = {"denoiser-compile", "vae-compile"}  # tested apart: an Inductor compile takes a minute
FOREIGN = {"openvino", "onnxruntime"}
CHEAP = [name for name in halftime.FIXES if name not in COMPILED | FOREIGN | {"tiny-vae"}]


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    made = halftime.bundled.load()
    made.set_progress_bar_config(disable=True)
    made.vae.enable_slicing()  # so that vae-slicing-off has something to do
    return made


def picture(pipeline) -> np.ndarray:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    call = {
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "width": 64,
        "height": 64,
        "output_type": "np",
    }
    return pipeline("a red apple", negative_prompt="blue", generator=generator, **call).images


@pytest.fixture(scope="module")
def untouched(pipeline) -> np.ndarray:  # type: ignore[no-untyped-def]
    return picture(pipeline)


def choice(name: str) -> Choice:
    return Choice(name=name, settings=QUICK.get(name, {}))


NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in FOREIGN else name
    for name in halftime.FIXES
    if name not in COMPILED
]


@pytest.mark.parametrize("name", NAMES)
def test_applied_and_undone_it_is_bit_identical(name: str, pipeline, untouched: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    fix = halftime.FIXES[name]
    reason = fix.applies(pipeline, device_of(pipeline), fix.with_defaults(choice(name).settings))
    if reason:
        pytest.skip(reason)
    weights = {key: tensor.data_ptr() for key, tensor in pipeline.unet.state_dict().items()}
    with halftime.applied(pipeline, [choice(name)]):
        changed = picture(pipeline)
    assert np.array_equal(picture(pipeline), untouched)
    assert {key: tensor.data_ptr() for key, tensor in pipeline.unet.state_dict().items()} == weights
    difference = float(np.abs(changed - untouched).mean())
    level = halftime.FIXES[name].level
    assert (
        difference == 0
        if level == "bit-exact"
        else difference < (0.03 if level == "equivalent" else 1)
    )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(st.sampled_from(CHEAP), unique=True, min_size=2, max_size=7))
def test_random_subsets_undone_are_bit_identical(
    names: list[str], pipeline, untouched: np.ndarray
) -> None:  # type: ignore[no-untyped-def]
    plan = Plan(fixes=tuple(choice(name) for name in names))
    try:
        with halftime.applied(pipeline, plan):
            assert np.isfinite(picture(pipeline)).all()
    except DoesNotApply:
        pass  # a conflict or a fix that does not apply: refused before anything changed
    assert np.array_equal(picture(pipeline), untouched)


def test_an_error_inside_undoes_too(pipeline, untouched: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    def fail() -> None:
        with halftime.applied(
            pipeline, ["denoiser-dtype", "vae-dtype", "schedule-table", "fused-qkv"]
        ):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert np.array_equal(picture(pipeline), untouched)


def test_the_order_is_the_tables_not_the_plans() -> None:
    names = [
        c.fix.name
        for c in choose(Plan(fixes=(Choice(name="schedule-table"), Choice(name="fused-qkv"))))
    ]
    assert names == ["fused-qkv", "schedule-table"]


@pytest.mark.slow
def test_compiled_and_undone_it_is_bit_identical() -> None:
    """One tiny module: a convolution in a VAE's place of Inductor's minute."""
    from halftime.fix.compilation import compiled
    from halftime.fix.table import FIXES

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU()).eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        before = module(x)
        with compiled(module, "forward", FIXES["vae-compile"].settings):
            inside = module(x)
        after = module(x)
    torch.testing.assert_close(inside, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(after, before)
    assert "forward" not in vars(module)
