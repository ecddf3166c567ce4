"""tf32, cudnn-benchmark, Inductor's flags for convolutions, and encodings that are kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import halftime
from fix_cells import changes, drawing, fingerprint
from halftime.fix import compilation
from halftime.fix.apply import reasons
from halftime.fix.base import ChosenFix
from halftime.fix.encoding_cache import EncodingCache
from halftime.fix.probe import BOUNDS, _bound
from halftime.fix.table import FIXES
from tiny_pipelines import PIPELINES

CUDA = torch.device("cuda")


class Called:
    """A pipeline whose call says how torch's switches stand."""

    def __init__(self, *modules: nn.Module) -> None:
        self.components = dict(zip(("unet", "vae"), modules, strict=False))

    def __call__(self) -> tuple[str, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


@pytest.mark.parametrize(
    ("fix", "inside"), [("tf32", ("high", True, False)), ("cudnn-benchmark", (..., True, True))]
)
def test_a_switch_is_on_during_a_call_alone(fix: str, inside: tuple[object, ...]) -> None:
    pipeline = Called()
    before = pipeline()
    with FIXES[fix].apply(pipeline, {}):
        during = pipeline()
        assert all(expected in (..., value) for expected, value in zip(inside, during, strict=True))
        outside = Called()()
        assert outside == before
    assert pipeline() == before


def test_a_switch_goes_off_when_a_call_raises() -> None:
    class Failing(Called):
        def __call__(self) -> tuple[str, bool, bool]:
            raise RuntimeError("no memory")

    before = Called()()
    pipeline = Failing()
    with FIXES["tf32"].apply(pipeline, {}), pytest.raises(RuntimeError, match="no memory"):
        pipeline()
    assert Called()() == before


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "words"),
    [
        ("cpu", (8, 0), torch.float32, "a switch for CUDA"),
        ("cuda", (7, 5), torch.float32, "8.0; this GPU has 7.5"),
        ("cuda", (9, 0), torch.bfloat16, "nothing of it is in float32"),
        ("cuda", (9, 0), torch.float32, None),
    ],
)
def test_where_tf32_helps(
    device: str,
    capability: tuple[int, int],
    dtype: torch.dtype,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    pipeline = PIPELINES["sd15"].build().to(dtype)
    reason = FIXES["tf32"].applies(pipeline, torch.device(device), {})
    assert reason is None if words is None else words in str(reason)


def test_where_cudnn_benchmark_helps() -> None:
    fix = FIXES["cudnn-benchmark"]
    assert fix.applies(PIPELINES["sd15"].build(), CUDA, {}) is None
    assert "CUDA" in str(reasons(PIPELINES["sd15"].build())["cudnn-benchmark"])


def test_tf32_is_held_to_the_bound_of_its_bits() -> None:
    pipeline = PIPELINES["sd15"].build()
    assert _bound(pipeline, [ChosenFix(FIXES["tf32"], {})]) == BOUNDS[torch.float16]


def test_conv_flags_are_options_of_inductor_and_refused_on_a_cpu() -> None:
    from torch._inductor import config

    settings = {**compilation.DEFAULTS, "conv_flags": True}
    options = compilation.compile_options(settings, CUDA)["options"]
    assert options == {
        "conv_1x1_as_mm": True,
        "coordinate_descent_tuning": True,
        "coordinate_descent_check_all_directions": True,
        "epilogue_fusion": False,
    }
    assert all(hasattr(config, name) for name in options)
    pipeline = PIPELINES["sd15"].build()
    for name in ("denoiser-compile", "vae-compile"):
        assert "for CUDA" in str(FIXES[name].applies(pipeline, torch.device("cpu"), settings))


# ---- encoding-cache, and prompt-cache


@pytest.mark.parametrize(
    ("fix", "encoded"),
    # two prompts and one negative one; two pairs of them
    [("encoding-cache", 3), ("prompt-cache", 4)],
)
def test_a_prompt_and_a_negative_one_that_come_again_are_encoded_once(
    fix: str, encoded: int
) -> None:
    pipeline = PIPELINES["sd15"].build()
    calls: list[int] = []

    def draw(prompt: str) -> np.ndarray:
        arguments = {**PIPELINES["sd15"].arguments(1), "prompt": prompt, "negative_prompt": "blue"}
        return drawing(lambda: pipeline(**arguments))

    plain, before = [draw("a cat"), draw("a dog")], fingerprint(pipeline)
    inner = (
        pipeline.text_encoder.text_model
        if hasattr(pipeline.text_encoder, "text_model")
        else next(pipeline.text_encoder.children())
    )
    hook = inner.register_forward_hook(lambda *_: calls.append(1))
    assert not np.array_equal(*plain)
    with halftime.applied(pipeline, [fix], probe=False):
        inside = [draw("a cat"), draw("a dog"), draw("a cat")]
    hook.remove()
    assert np.array_equal(inside[:2], plain)
    assert np.array_equal(inside[2], plain[0])
    assert len(calls) == encoded
    assert changes(before, fingerprint(pipeline)) == []


def test_each_reference_picture_is_encoded_once() -> None:
    tiny = PIPELINES["sd15_img2img"]
    pipeline = tiny.build()
    calls: list[int] = []
    first = tiny.arguments()["image"]
    pictures = [first, first.flip(-1)]  # type: ignore[attr-defined]

    def draw(image: object) -> np.ndarray:
        return drawing(lambda: pipeline(**{**tiny.arguments(2), "image": image}))

    expected = [draw(image) for image in pictures]
    assert not np.array_equal(*expected)
    hook = pipeline.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    with halftime.applied(pipeline, ["encoding-cache"], probe=False):
        inside = [draw(image) for image in (*pictures, *pictures)]
    hook.remove()
    assert np.array_equal(inside, [*expected, *expected])
    assert len(calls) == 2


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]), requires_grad=False)
        self.calls = 0

    def forward(self, sample: torch.Tensor, note: object = None) -> torch.Tensor:
        self.calls += 1
        return sample * self.weight


@torch.no_grad()
def test_what_is_kept_is_the_callers_no_more_and_of_these_weights() -> None:
    module = Doubling().eval()
    encode = EncodingCache(module, size=2).around(module.forward)
    one, two = torch.ones(2), torch.full((2,), 2.0)
    encode(one).zero_()
    assert torch.equal(encode(torch.ones(2)), two)
    assert module.calls == 1
    assert torch.equal(encode(torch.ones(2, dtype=torch.float64)), two.double())
    encode(one, note=SimpleNamespace())  # not plain data
    assert module.calls == 3
    module.weight.mul_(3)
    assert torch.equal(encode(one), 3 * two)
    module.weight.data = torch.tensor([1.0])
    assert torch.equal(encode(one), one)
    with torch.enable_grad():
        encode(one)
    assert module.calls == 6
    for value in range(5, 9):
        encode(torch.tensor([float(value)]))
    assert module.calls == 10
