"""What each fix does while it is on."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import halftime
from halftime.base.errors import DoesNotApply
from halftime.fix.deep_cache import DeepCache
from halftime.fix.loop_graph import Takeover
from halftime.fix.memory_watch import RUNS, MemoryWatch
from halftime.fix.text import Identities, PromptCache, batched
from halftime.records.recipe import Choice


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    made = halftime.bundled.load()
    made.set_progress_bar_config(disable=True)
    return made


def picture(pipeline, **more: object) -> np.ndarray:  # type: ignore[no-untyped-def]
    call = {
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "width": 64,
        "height": 64,
        "output_type": "np",
    }
    return pipeline(
        "a red apple", generator=torch.Generator().manual_seed(0), **(call | more)
    ).images


def evaluated(pipeline, fixes: list[str | Choice], **more: object) -> list[int]:  # type: ignore[no-untyped-def]
    """The batch of every convolution that begins a full evaluation of the middle block."""
    seen: list[int] = []
    with halftime.applied(pipeline, fixes):
        hook = pipeline.unet.conv_in.register_forward_hook(lambda m, i, o: seen.append(o.shape[0]))
        try:
            picture(pipeline, **more)
        finally:
            hook.remove()
    return seen


def test_guidance_interval_halves_the_batch_outside_of_it(pipeline) -> None:  # type: ignore[no-untyped-def]
    interval = Choice(name="guidance-interval", settings={"start": 0.0, "stop": 0.5})
    assert evaluated(pipeline, [interval]) == [2, 2, 1, 1]
    assert evaluated(pipeline, [interval]) == [2, 2, 1, 1]  # the count starts anew with each call


def test_solver_steps_changes_steps_and_solver_and_takes_them_back(pipeline) -> None:  # type: ignore[no-untyped-def]
    before = pipeline.scheduler
    fix = Choice(
        name="solver-steps", settings={"scheduler": "DPMSolverMultistepScheduler", "steps": 2}
    )
    assert evaluated(pipeline, [fix]) == [2, 2]
    assert pipeline.scheduler is before


def test_solver_steps_leaves_no_memory_of_its_steps_in_the_scheduler(pipeline) -> None:  # type: ignore[no-untyped-def]
    """UniPC keeps the last timesteps beyond a call."""
    evaluated(pipeline, [])
    before = dict(vars(pipeline.scheduler))
    assert evaluated(pipeline, [Choice(name="solver-steps", settings={"steps": 3})]) == [2, 2, 2]
    after = vars(pipeline.scheduler)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


@contextmanager
def middle_counted(pipeline) -> Iterator[list[int]]:  # type: ignore[no-untyped-def]
    """A 1 for each forward of the UNet's middle."""
    seen: list[int] = []
    original = pipeline.unet.mid_block.forward

    def counted(*args: object, **kwargs: object) -> object:
        seen.append(1)
        return original(*args, **kwargs)

    pipeline.unet.mid_block.forward = counted
    try:
        yield seen
    finally:
        del pipeline.unet.mid_block.forward


def test_step_cache_runs_the_middle_every_other_step(pipeline) -> None:  # type: ignore[no-untyped-def]
    cached = halftime.applied(pipeline, ["step-cache"], probe=False)
    with middle_counted(pipeline) as seen, cached:
        picture(pipeline)
        picture(pipeline)
    assert len(seen) == 4  # two of four steps, in each of two calls


@pytest.mark.parametrize(
    ("every", "full_steps", "full"),
    [
        (2, 0, [0, 2, 4, 6, 8]),
        (2, 1, [0, 2, 4, 6, 8]),
        (3, 4, [0, 1, 2, 3, 6, 9]),
        (2, 99, list(range(10))),
    ],
)
def test_deep_cache_evaluates_the_first_steps_in_full(
    every: int, full_steps: int, full: list[int]
) -> None:
    cache = DeepCache(every, full_steps)
    evaluated = []
    for step in range(10):
        cache.decide(2)
        if not cache.skip:
            evaluated.append(step)
            cache.outputs["middle"] = "features"
    assert evaluated == full


@pytest.mark.parametrize(("threshold", "expected"), [(-1e9, 4), (1e9, 3)])
def test_a_hard_call_goes_on_in_full(pipeline, threshold: float, expected: int) -> None:  # type: ignore[no-untyped-def]
    """Four steps: two full ones are looked at, and then each second or all of them."""
    settings = {"full_steps": 2, "hard": [1.0, 1.0, 0.0, threshold]}
    plan = [Choice(name="step-cache", settings=settings)]
    with middle_counted(pipeline) as seen, halftime.applied(pipeline, plan, probe=False):
        picture(pipeline)
        picture(pipeline)  # and the next call is scored anew
    assert len(seen) == 2 * expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hard": [1.0, 0.0]}, "full_steps must be 2 or more"),
        ({"hard": [1.0, 0.0], "full_steps": 3}, "a list of 6 numbers"),
        ({"hard": [1.0, "a", 0.0, 0.0], "full_steps": 2}, "list of numbers"),
    ],
)
def test_a_score_that_does_not_fit_is_refused(
    pipeline,  # type: ignore[no-untyped-def]
    settings: dict[str, object],
    reason: str,
) -> None:
    cache = Choice(name="step-cache", settings=settings)  # type: ignore[arg-type]
    with pytest.raises(DoesNotApply, match=reason):
        halftime.applied(pipeline, [cache]).__enter__()


def test_full_steps_are_refused_where_a_cache_has_its_own(pipeline) -> None:  # type: ignore[no-untyped-def]
    cache = Choice(name="step-cache", settings={"full_steps": -1})
    with pytest.raises(DoesNotApply, match="full_steps must be 0 or more"):
        halftime.applied(pipeline, [cache]).__enter__()


def test_deep_cache_recomputes_for_another_batch() -> None:
    cache = DeepCache(every=2)
    cache.decide(2)
    cache.outputs["middle"] = "features"
    cache.decide(1)
    assert not cache.skip


def test_an_encoders_prompt_is_encoded_once() -> None:
    calls = []

    def encode(
        prompt: str, device: object = None, do_classifier_free_guidance: bool = True
    ) -> torch.Tensor:
        calls.append(prompt)
        return torch.ones(2)

    cache = PromptCache(encode, 2, lambda: 0)
    cache("a").zero_()  # what the caller does to its copy stays with the caller
    assert torch.equal(cache(prompt="a"), torch.ones(2))
    assert (cache.hits, cache.misses, cache.hit_rate) == (1, 1, 0.5)
    cache("b"), cache("c"), cache("a")
    assert calls == ["a", "b", "c", "a"]  # bounded: 'a' was the oldest
    cache(torch.ones(1))
    assert len(calls) == 5  # not plain data, so not cached


def test_an_object_that_took_anothers_place_in_memory_has_its_own_number() -> None:
    """CPython gives the address of a dead object to the next of its size."""

    class Weight:
        pass

    identities, addresses, numbers = Identities(), set(), []
    for _ in range(20):
        weight = Weight()
        addresses.add(id(weight))
        numbers.append(identities.number(weight))
        assert identities.number(weight) == numbers[-1]
        del weight
    assert len(addresses) < 20  # else nothing was tried
    assert numbers == [*range(20)]
    assert identities.number(()) == identities.number(()) == 20  # takes no weak reference


def test_a_cache_knows_when_the_weights_changed(pipeline) -> None:  # type: ignore[no-untyped-def]
    with halftime.applied(pipeline, ["prompt-cache"]):
        cache = pipeline.encode_prompt
        arguments = {
            "prompt": "a",
            "device": torch.device("cpu"),
            "do_classifier_free_guidance": False,
        }
        before = cache(**arguments)[0]
        with torch.no_grad():
            weight = next(pipeline.text_encoder.parameters())
            kept = weight.clone()
            weight.mul_(1.5)
            assert not torch.equal(cache(**arguments)[0], before)
            weight.copy_(kept)
    assert cache.hits == 0


@pytest.mark.parametrize(
    "prompts", [("a cat", "blue"), (["a cat", "a dog"], "blue"), (["a cat", "a dog"], ["x", "y"])]
)
def test_batched_prompts_equal_single_ones(prompts: tuple[object, object], pipeline) -> None:  # type: ignore[no-untyped-def]
    prompt, negative = prompts
    arguments = {
        "prompt": prompt,
        "negative_prompt": negative,
        "device": torch.device("cpu"),
        "num_images_per_prompt": 2,
    }
    with torch.no_grad():
        expected = pipeline.encode_prompt(**arguments)
        got = batched(pipeline.encode_prompt, lambda given: False)(**arguments)
    assert len(got) == len(expected) == 4
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_picture_is_encoded_exactly_while_decoding_is_in_lower_precision(pipeline) -> None:  # type: ignore[no-untyped-def]
    drawing = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents = pipeline.vae.encode(drawing).latent_dist.mode()
        decoded = pipeline.vae.decode(latents).sample
        with halftime.applied(pipeline, ["vae-dtype"], probe=False):
            assert torch.equal(pipeline.vae.encode(drawing).latent_dist.mode(), latents)
            lower = pipeline.vae.decode(latents).sample
    assert not torch.equal(lower, decoded)
    assert (lower - decoded).abs().mean() < 0.05


def test_prompts_that_come_as_embeddings_are_left_as_they_are(pipeline) -> None:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        positive, negative, pooled, negative_pooled = pipeline.encode_prompt("a cat")
        embeddings = {
            "prompt_embeds": positive,
            "negative_prompt_embeds": negative,
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": negative_pooled,
        }
        result = batched(pipeline.encode_prompt, lambda arguments: False)(None, **embeddings)
    assert torch.equal(result[0], positive)
    assert torch.equal(result[1], negative)


def test_projections_of_a_wrapped_denoiser_are_fused_and_taken_apart() -> None:
    pipeline = halftime.bundled.load()
    denoiser = pipeline.unet
    pipeline.unet = torch.compile(denoiser, backend="eager")
    attention = next(m for m in denoiser.modules() if hasattr(m, "fuse_projections"))
    with halftime.applied(pipeline, ["fused-qkv"], probe=False):
        assert attention.fused_projections
    assert not attention.fused_projections


def test_the_taken_over_loop_gives_the_pipelines_own_picture(pipeline) -> None:  # type: ignore[no-untyped-def]
    from diffusers import EulerAncestralDiscreteScheduler

    plain = Choice(name="loop-graph", settings={"backend": "eager"})
    original = pipeline.scheduler
    for scheduler in (original, EulerAncestralDiscreteScheduler.from_config(original.config)):
        pipeline.scheduler = scheduler
        for guidance in (5.0, 1.0):
            expected = picture(pipeline, guidance_scale=guidance)
            with halftime.applied(pipeline, [plain]):
                np.testing.assert_allclose(
                    picture(pipeline, guidance_scale=guidance), expected, atol=2e-4
                )
    pipeline.scheduler = original


def test_a_call_with_a_callback_keeps_its_own_loop(pipeline) -> None:  # type: ignore[no-untyped-def]
    seen: list[float] = []

    def note(
        pipe: object, step: int, t: object, values: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        seen.append(float(values["latents"].std()))
        return values

    expected = picture(pipeline)
    with halftime.applied(pipeline, [Choice(name="loop-graph", settings={"backend": "eager"})]):
        got = picture(pipeline, callback_on_step_end=note)
    assert len(set(seen)) == 4
    np.testing.assert_allclose(got, expected, atol=2e-4)


class FakeGraph:
    """Stands for a captured graph: runs the function, and counts."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        self.function, self.replays = function, 0

    def __call__(self, values: list[torch.Tensor]) -> torch.Tensor:
        self.replays += 1
        return self.function(values)


def captured_with(pipeline, capture, watch: MemoryWatch | None = None):  # type: ignore[no-untyped-def]
    """The fix with another capture: finds the running Takeover through the patched denoiser."""
    state: Takeover = pipeline.unet.forward.func.__self__
    state.capture = capture
    state.watch = watch or state.watch
    return state


def test_a_graph_is_captured_once_a_shape_and_released(pipeline) -> None:  # type: ignore[no-untyped-def]
    graphs: list[FakeGraph] = []

    def capture(function, values):  # type: ignore[no-untyped-def]
        graphs.append(FakeGraph(function))
        return graphs[-1]

    expected = picture(pipeline)
    with halftime.applied(pipeline, [Choice(name="loop-graph", settings={"backend": "eager"})]):
        state = captured_with(pipeline, capture)
        for _ in range(3):
            np.testing.assert_allclose(picture(pipeline), expected, atol=2e-4)
        picture(pipeline, guidance_scale=3.0)  # a value, no constant of the graph
        picture(pipeline, num_images_per_prompt=2)
        assert [g.replays for g in graphs] == [4, 1]
    assert not state.graphs


def test_a_failed_capture_falls_back_and_says_so(pipeline) -> None:  # type: ignore[no-untyped-def]
    def capture(function, values):  # type: ignore[no-untyped-def]
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = picture(pipeline)
    with halftime.applied(pipeline, [Choice(name="loop-graph", settings={"backend": "eager"})]):
        state = captured_with(pipeline, capture)
        with pytest.warns(UserWarning, match="not permitted"):
            np.testing.assert_allclose(picture(pipeline), expected, atol=2e-4)
        np.testing.assert_allclose(picture(pipeline), expected, atol=2e-4)
        assert state.own_way


def test_growing_memory_drops_the_graph_and_asks_for_a_profile(pipeline) -> None:  # type: ignore[no-untyped-def]
    used = iter(range(0, 10**9, 10**7))
    watch = MemoryWatch(lambda: next(used), limit=10**6)
    with halftime.applied(pipeline, [Choice(name="loop-graph", settings={"backend": "eager"})]):
        state = captured_with(pipeline, lambda function, values: FakeGraph(function), watch)
        for _ in range(RUNS - 1):
            picture(pipeline, num_inference_steps=1)
        with pytest.warns(UserWarning, match="halftime profile"):
            picture(pipeline, num_inference_steps=1)
        assert not state.graphs


def test_memory_that_goes_up_and_down_is_no_leak() -> None:
    used = iter([5, 6, 7, 8, 9, 8, 10, 11, 12, 13] * 3)
    watch = MemoryWatch(lambda: next(used), limit=1)
    assert not any(watch.grew() for _ in range(20))
