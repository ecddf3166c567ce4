"""A UNet's cache beside a runtime and the loop: a full and a shallow pass, each converted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import halftime
from cuda_stand_ins import Captures
from halftime.base.errors import DoesNotApply
from halftime.fix import loop_graph, openvino, step_cache
from halftime.fix.apply import choose
from halftime.fix.deep_cache import CachedForward, beneath, no_two_passes
from halftime.fix.loop_graph import Takeover
from halftime.fix.runtime import Convert, Flat, Runner
from halftime.fix.step_cache import not_together
from halftime.records import Json
from halftime.records.recipe import Choice
from halftime.records.recipe import Plan as ChosenPlan
from halftime.verbs.tune.candidates import clash, combine
from tiny_pipelines import PIPELINES

STEPS = 7
Plan = tuple[Choice, ...]


def fix(name: str, **settings: Json) -> Choice:
    return Choice(name=name, settings=settings)


CACHE = fix("step-cache", kind="deep")
INTERVAL = fix("guidance-interval", stop=0.3)
EASY, HARD = (
    fix("step-cache", kind="deep", full_steps=2, hard=[1.0, 1.0, 0.0, threshold])
    for threshold in (1e9, -1e9)
)
PLANS: dict[str, Plan] = {
    "cache": (CACHE,),
    "every third after two": (fix("step-cache", kind="deep", every=3, full_steps=2),),
    "interval": (INTERVAL,),
    "cache and interval": (CACHE, INTERVAL),
    "an easy prompt": (EASY,),
    "a hard prompt": (HARD,),
    "a hard prompt within an interval": (HARD, INTERVAL),
}
IN_A_LOOP = fix("loop-graph", backend="openvino", precision="float32")
BY_COMPONENT = fix("openvino", components=["denoiser"], precision="float32")


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    return PIPELINES["sd15"].build()


def picture(pipeline, steps: int = STEPS, **changes: object) -> np.ndarray:  # type: ignore[no-untyped-def]
    arguments: dict[str, object] = {
        "prompt": "a cat",
        "height": 32,
        "width": 32,
        "guidance_scale": 50.0,  # random weights hardly listen to a prompt
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipeline(**arguments | changes, num_inference_steps=steps).images


def drawn(pipeline, *plan: Choice, **changes: object) -> np.ndarray:  # type: ignore[no-untyped-def]
    with halftime.applied(pipeline, plan, probe=False):
        return picture(pipeline, **changes)


class Converter:
    """Stands for OpenVINO: notes what is converted, and runs it in torch."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def of(self, settings: object) -> Convert:
        return self.convert

    def convert(self, flat: Flat, tensors: tuple[Tensor, ...]) -> Runner:
        self.shapes.append(tuple(tensors[0].shape))
        flat(*tensors)

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            assert [tensor.shape for tensor in inputs] == [tensor.shape for tensor in tensors]
            return [result.clone() for result in flat(*inputs)]

        return run


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    stand_in = Converter()
    for module in (loop_graph, openvino):
        monkeypatch.setattr(module, "converter", stand_in.of)
    monkeypatch.setattr(loop_graph, "missing", lambda: None)
    monkeypatch.setattr("halftime.fix.runtime.not_installed", lambda *_: None)
    return stand_in


# ---- equal to the cache that is not converted


@pytest.mark.parametrize("runtime", [IN_A_LOOP, BY_COMPONENT], ids=["loop", "component"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_converted_it_draws_what_it_draws_unconverted_and_nothing_is_converted_twice(
    plan: Plan,
    runtime: Choice,
    pipeline,  # type: ignore[no-untyped-def]
    converter: Converter,
) -> None:
    plain, expected = picture(pipeline), drawn(pipeline, *plan)
    with halftime.applied(pipeline, [*plan, runtime], probe=False):
        np.testing.assert_allclose(picture(pipeline), expected, atol=2e-5)
        warm = len(converter.shapes)
        again = picture(pipeline, prompt="a dog", steps=STEPS + 2)
        np.testing.assert_allclose(picture(pipeline), expected, atol=2e-5)
        assert len(converter.shapes) == warm
    np.testing.assert_allclose(
        again, drawn(pipeline, *plan, prompt="a dog", steps=STEPS + 2), atol=2e-5
    )
    assert np.array_equal(picture(pipeline), plain)


@pytest.mark.parametrize(
    ("plan", "passes"),
    [((), 1), ((CACHE,), 2), ((INTERVAL,), 2), ((CACHE, INTERVAL), 4), ((HARD,), 1), ((EASY,), 2)],
)
def test_a_pass_is_converted_when_it_first_runs(
    plan: Plan,
    passes: int,
    pipeline,  # type: ignore[no-untyped-def]
    converter: Converter,
) -> None:
    """Full or shallow, with guidance or without it."""
    drawn(pipeline, *plan, IN_A_LOOP)
    assert len(converter.shapes) == passes


def test_the_cache_changes_the_picture_at_all(pipeline) -> None:  # type: ignore[no-untyped-def]
    plain = picture(pipeline)
    assert not np.allclose(drawn(pipeline, CACHE), plain, atol=1e-3)
    assert not np.allclose(drawn(pipeline, CACHE, INTERVAL), drawn(pipeline, CACHE), atol=1e-3)
    np.testing.assert_array_equal(drawn(pipeline, HARD), plain)


def test_a_shallow_pass_on_its_own_features_is_the_full_one(pipeline) -> None:  # type: ignore[no-untyped-def]
    """Bit for bit: nothing else of the deep blocks is read."""
    with halftime.applied(pipeline, [CACHE], probe=False):
        cached = beneath(pipeline.unet.forward, CachedForward)
        assert cached is not None
        cached.running.thread = None
        text = torch.randn(2, 7, pipeline.unet.config.cross_attention_dim)
        values = torch.randn(2, 4, 8, 8), torch.tensor(500), text
        with cached.running.running(), torch.no_grad():
            (answer,), features = cached.full(*values, return_dict=False)  # type: ignore[misc]
            (again,) = cached.shallow(features, *values, return_dict=False)  # type: ignore[misc]
            (other,) = cached.shallow(2 * features, *values, return_dict=False)  # type: ignore[misc, operator]
    assert torch.equal(answer, again)
    assert not torch.allclose(answer, other)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [IN_A_LOOP, BY_COMPONENT], ids=["loop", "component"])
def test_openvino_draws_it_too(runtime: Choice, pipeline) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("openvino")
    plain, expected = picture(pipeline), drawn(pipeline, CACHE, INTERVAL)
    np.testing.assert_allclose(drawn(pipeline, CACHE, INTERVAL, runtime), expected, atol=1e-3)
    assert np.array_equal(picture(pipeline), plain)


# ---- captured


def test_a_captured_loop_has_both_passes_in_one_graph(
    pipeline,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures = Captures()
    captures.put_in_place(monkeypatch)
    eager = fix("loop-graph", backend="eager")
    expected = drawn(pipeline, CACHE, INTERVAL)
    with halftime.applied(pipeline, [CACHE, INTERVAL, eager], probe=False):
        state = beneath(pipeline.unet.forward, object).__self__  # type: ignore[attr-defined]
        assert isinstance(state, Takeover)
        state.capture = loop_graph.capture
        for _ in range(3):
            np.testing.assert_allclose(picture(pipeline), expected, atol=2e-5)
    assert [graph.replays for graph in captures.graphs] == [3]


def test_a_call_that_fails_leaves_the_next_one_nothing(
    pipeline,  # type: ignore[no-untyped-def]
    converter: Converter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with halftime.applied(pipeline, [CACHE, BY_COMPONENT], probe=False):
        expected = picture(pipeline)
        with monkeypatch.context() as patch:
            step, calls = pipeline.scheduler.step, iter(range(9))

            def failing(*args: object, **kwargs: object) -> object:
                if next(calls) == 2:
                    raise RuntimeError("in the middle")
                return step(*args, **kwargs)

            patch.setattr(pipeline.scheduler, "step", failing)
            with pytest.raises(RuntimeError, match="in the middle"):
                picture(pipeline, prompt="a dog")
        assert np.array_equal(picture(pipeline), expected)


# ---- what is refused, and what joins what


def test_a_transformers_cache_beside_a_runtime_is_refused_before_anything_changes() -> None:
    pipeline = PIPELINES["flux"].build()
    before = dict(vars(pipeline.transformer))
    for kind in ("", "mag"):
        with (
            pytest.raises(DoesNotApply, match="exclude each other: a converted denoiser"),
            halftime.applied(pipeline, [fix("step-cache", kind=kind), BY_COMPONENT]),
        ):
            pass
    assert vars(pipeline.transformer) == before


def test_a_unet_of_another_make_has_no_two_passes(pipeline) -> None:  # type: ignore[no-untyped-def]
    assert no_two_passes(pipeline.unet) is None
    assert "AudioLDM2" in str(no_two_passes(PIPELINES["audioldm2"].build().unet))


def test_a_score_needs_guidance_on_its_first_steps(pipeline) -> None:  # type: ignore[no-untyped-def]
    late = fix("guidance-interval", start=0.2, stop=1.0)
    with (
        pytest.raises(DoesNotApply, match="hard looks at what guidance changes"),
        halftime.applied(pipeline, [EASY, late]),
    ):
        pass


def test_a_captured_loop_waits_for_no_score(
    pipeline,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = choose(ChosenPlan(fixes=(EASY, fix("loop-graph"))))
    eager = choose(ChosenPlan(fixes=(EASY, fix("loop-graph", backend="eager"))))
    assert not_together(pipeline, eager) is None
    assert "Use backend = 'openvino'" in str(not_together(pipeline, chosen))
    monkeypatch.setattr(step_cache, "device_of", lambda _: torch.device("cuda"))
    assert "hard reads a score in the middle" in str(not_together(pipeline, chosen))
    plain = choose(ChosenPlan(fixes=(CACHE, fix("loop-graph"))))
    assert not_together(pipeline, plain) is None


def test_tune_puts_cache_interval_and_loop_together() -> None:
    loop = fix("loop-graph", backend="openvino")
    for joins in (CACHE, INTERVAL, EASY):
        assert clash(loop, joins) is None
        assert combine((loop,), joins) == ((loop, joins), ())
    assert clash(BY_COMPONENT, CACHE) is None
    assert "no blocks" in str(clash(BY_COMPONENT, fix("step-cache", kind="mag")))
    assert clash(fix("openvino", components=["vae"]), fix("step-cache", kind="mag")) is None
