"""The parts that foreign runtimes share, the loop through OpenVINO, the folded doubling and the
known device."""

import numpy as np
import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from hypothesis import given, settings
from hypothesis import strategies as st

import halftime
from halftime.fix.openvino import converter
from halftime.fix.runtime import Converted, Flat, signature
from halftime.fix.upsampling import FoldedUpsample
from halftime.pipeline.device import device_of
from halftime.records.recipe import Choice


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    made = halftime.bundled.load()
    made.set_progress_bar_config(disable=True)
    return made


def picture(pipeline, **arguments: object) -> np.ndarray:  # type: ignore[no-untyped-def]
    call = {"num_inference_steps": 3, "guidance_scale": 2.5, "output_type": "np"}
    return pipeline(
        "a 3D render of a red apple on a white background",
        generator=torch.Generator().manual_seed(0),
        **call | arguments,
    ).images


# ---- what a conversion depends on


def test_a_method_is_converted_once_for_each_signature() -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor, more: dict[str, object]) -> tuple[torch.Tensor]:
            return (x * 2 if more["twice"] else x,)

    converted: list[tuple[int, ...]] = []

    def convert(flat: Flat, tensors: tuple[torch.Tensor, ...]):  # type: ignore[no-untyped-def]
        converted.append(tuple(tensors[0].shape))
        flat(*tensors)
        return lambda inputs: list(flat(*inputs))

    module = Double()
    run = Converted(module, module.forward, convert)
    for size in (2, 3, 2):
        torch.testing.assert_close(
            run(torch.ones(size), {"twice": True})[0], torch.full((size,), 2.0)
        )  # type: ignore[index]
    torch.testing.assert_close(run(torch.ones(2), {"twice": False})[0], torch.ones(2))  # type: ignore[index]
    assert converted == [(2,), (3,), (2,)]


leaves = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.just(torch.zeros(2))
)
trees = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3)
)


@given(tree=trees)
def test_tensors_are_collected_in_pytrees_order(tree: object) -> None:
    found: list[torch.Tensor] = []
    hash(signature(tree, found))
    expected = [
        leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)
    ]
    assert list(map(id, found)) == list(map(id, expected))


# ---- OpenVINO


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.01), ("float32", 1e-3)])
def test_the_loop_through_openvino_draws_the_same(
    precision: str, tolerance: float, pipeline
) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("openvino")
    plan = [
        Choice(name="loop-graph", settings={"backend": "openvino", "precision": precision}),
        Choice(
            name="openvino",
            settings={"components": ["vae", "text_encoder"], "precision": precision},
        ),
    ]
    expected = picture(pipeline)
    with halftime.applied(pipeline, plan):
        got = picture(pipeline)
        stronger = picture(pipeline, guidance_scale=5.0)
    assert np.sqrt(np.mean((got - expected) ** 2)) < tolerance
    assert np.abs(stronger - got).max() > 0.01  # guidance is a value, no constant of the model
    assert np.array_equal(picture(pipeline), expected)


@pytest.mark.slow
def test_a_result_is_not_overwritten_by_the_next_call() -> None:
    pytest.importorskip("openvino")
    module = torch.nn.Linear(4, 4)
    run = Converted(module, lambda x: (module(x),), converter({"precision": "float32"}))
    first = run(torch.ones(1, 4))[0]  # type: ignore[index]
    kept = first.clone()
    run(torch.zeros(1, 4))
    assert torch.equal(first, kept)


def test_the_loop_in_openvino_excludes_what_changes_the_denoiser(pipeline) -> None:  # type: ignore[no-untyped-def]
    loop = Choice(name="loop-graph", settings={"backend": "openvino"})
    for name in ("denoiser-dtype", "denoiser-channels-last", "openvino"):
        with (
            pytest.raises(halftime.base.errors.DoesNotApply, match="exclude"),
            halftime.applied(pipeline, [loop, name]),
        ):
            pass
    with pytest.raises(halftime.base.errors.DoesNotApply, match="eagre"):
        halftime.applied(
            pipeline, [Choice(name="loop-graph", settings={"backend": "eagre"})]
        ).__enter__()


# ---- the folded doubling


@settings(max_examples=20, deadline=None)
@given(
    inner=st.integers(1, 4),
    outer=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_doubling_and_convolution_fold_into_one(
    inner: int, outer: int, height: int, width: int
) -> None:
    torch.manual_seed(inner * 100 + outer * 10 + height)
    original = Upsample2D(inner, use_conv=True, out_channels=outer)
    folded = FoldedUpsample(original, original.conv)
    x = torch.randn(2, inner, height, width)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), original(x), atol=1e-5, rtol=1e-5)
        odd = (2 * height - 1, 2 * width - 1)
        assert torch.equal(folded(x, odd), original(x, odd))


def test_the_vaes_doublings_are_all_folded(pipeline) -> None:  # type: ignore[no-untyped-def]
    def count(kind: type) -> int:
        return sum(type(module) is kind for module in pipeline.vae.decoder.modules())

    before = picture(pipeline)
    doublings = count(Upsample2D)
    with halftime.applied(pipeline, ["vae-folded-upsample", "vae-channels-last"]):
        assert count(FoldedUpsample) == doublings == 3
        np.testing.assert_allclose(picture(pipeline), before, atol=1e-4)
    assert count(FoldedUpsample) == 0
    assert np.array_equal(picture(pipeline), before)


# ---- the known device


def test_the_device_is_known_without_a_walk(pipeline, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    original = type(pipeline)
    with halftime.applied(pipeline, ["known-device"]):
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.nn.Module, "modules", lambda self: pytest.fail("walked through the modules")
            )
            assert pipeline._execution_device == pipeline.device == torch.device("cpu")
        assert isinstance(pipeline, original)
    assert type(pipeline) is original


def test_a_hooked_pipeline_keeps_its_own_lookup(pipeline) -> None:  # type: ignore[no-untyped-def]
    fix = halftime.FIXES["known-device"]
    pipeline.unet.conv_in._hf_hook = object()
    try:
        assert "hooks" in str(fix.applies(pipeline, device_of(pipeline), {}))
    finally:
        del pipeline.unet.conv_in._hf_hook
