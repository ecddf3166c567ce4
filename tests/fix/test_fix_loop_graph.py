"""The graph of a whole loop, on a stand-in that knows addresses and keeps nothing alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import halftime
from cuda_stand_ins import Captures, FreedMemory, RecordedGraph
from halftime.fix.loop_graph import MOST_GRAPHS, Captured, Takeover, capture
from halftime.fix.memory_watch import RUNS, MemoryWatch
from halftime.records.recipe import Choice
from tiny_pipelines import PIPELINES

STEPS = (2, 3, 2, 3, 2, 3)


@pytest.fixture(scope="module")
def pipeline():  # type: ignore[no-untyped-def]
    return PIPELINES["sd15"].build()


def picture(pipeline, steps: int, **changes: object) -> np.ndarray:  # type: ignore[no-untyped-def]
    arguments = {
        "prompt": "a cat",
        "height": 32,
        "width": 32,
        "guidance_scale": 5.0,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipeline(**arguments | changes, num_inference_steps=steps).images


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    stand_in = Captures()
    stand_in.put_in_place(monkeypatch)
    return stand_in


@pytest.fixture
def state(pipeline, captures: Captures) -> Iterator[Takeover]:  # type: ignore[no-untyped-def]
    """The fix on a pipeline, capturing as on CUDA."""
    with halftime.applied(pipeline, [Choice(name="loop-graph", settings={"backend": "eager"})]):
        takeover: Takeover = pipeline.unet.forward.func.__self__
        takeover.capture = capture
        yield takeover


@pytest.fixture(scope="module")
def expected(pipeline) -> dict[int, np.ndarray]:  # type: ignore[no-untyped-def]
    return {steps: picture(pipeline, steps) for steps in set(STEPS)}


def test_the_stand_in_finds_a_graph_that_reads_what_was_freed() -> None:
    outside, values = torch.ones(3), torch.ones(3)
    graph = RecordedGraph()
    with graph:
        result = values + outside
    values.fill_(2.0)
    graph.replay()
    assert result.tolist() == [3.0] * 3
    del outside
    with pytest.raises(FreedMemory):
        graph.replay()


def test_step_counts_in_turn_are_captured_once_each_and_read_nothing_freed(
    pipeline, state: Takeover, captures: Captures, expected: dict[int, np.ndarray]
) -> None:
    for steps in STEPS:
        np.testing.assert_allclose(picture(pipeline, steps), expected[steps], atol=2e-4)
    assert [graph.replays for graph in captures.graphs] == [3, 3]


def test_another_schedule_of_as_many_steps_is_another_picture_from_the_same_graph(
    pipeline, state: Takeover, captures: Captures
) -> None:
    """Coefficients and timesteps are inputs, no constants of the graph."""
    own = [999, 1]
    with_own = picture(pipeline, 2)
    scheduler, original = pipeline.scheduler, pipeline.scheduler.set_timesteps

    def set_timesteps(steps: int, device: object = None, **more: object) -> None:
        original(steps, device=device, **more)
        scheduler.timesteps.copy_(torch.tensor(own))

    scheduler.set_timesteps = set_timesteps
    try:
        assert not np.allclose(picture(pipeline, 2), with_own, atol=2e-4)
    finally:
        del scheduler.set_timesteps
    np.testing.assert_allclose(picture(pipeline, 2), with_own, atol=2e-4)
    assert len(captures.graphs) == 1


def test_another_prompt_is_another_picture_from_the_same_graph(  # type: ignore[no-untyped-def]
    pipeline, state: Takeover, captures: Captures
) -> None:
    """Embeddings of both prompts are inputs, no constants of the graph."""
    texts = [("a cat", "blue"), ("a dog", "blue"), ("a dog", "red"), ("a cat", "blue")]
    inside = [picture(pipeline, 2, prompt=text, negative_prompt=no) for text, no in texts]
    assert len(captures.graphs) == 1
    assert np.array_equal(inside[0], inside[3])
    assert not np.allclose(inside[0], inside[1], atol=2e-4)
    assert not np.allclose(inside[1], inside[2], atol=2e-4)


@dataclass
class Rerun:
    """A graph that only runs its function again: for what is not about memory."""

    function: Callable[[list[torch.Tensor]], torch.Tensor]
    inputs: list[torch.Tensor]
    result: torch.Tensor
    was_reset: bool = False

    def replay(self) -> None:
        self.result.copy_(self.function(self.inputs))

    def reset(self) -> None:
        self.was_reset = True


@pytest.fixture
def reruns(state: Takeover) -> list[Rerun]:
    graphs: list[Rerun] = []

    def capture(
        function: Callable[[list[torch.Tensor]], torch.Tensor], values: list[torch.Tensor]
    ) -> Captured:
        inputs = [value.clone() for value in values]
        graphs.append(Rerun(function, inputs, torch.zeros_like(inputs[0])))
        return Captured(graphs[-1], inputs, graphs[-1].result)

    state.capture = capture
    return graphs


def test_the_graphs_are_bounded_the_least_recently_used_goes(
    pipeline, state: Takeover, reruns: list[Rerun], expected: dict[int, np.ndarray]
) -> None:
    for steps in (1, 2, 3, 4):
        picture(pipeline, steps)
    picture(pipeline, 1)
    picture(pipeline, 5)
    assert MOST_GRAPHS == len(state.graphs) == 4
    assert [graph.was_reset for graph in reruns] == [False, True, False, False, False]
    np.testing.assert_allclose(picture(pipeline, 2), expected[2], atol=2e-4)


def test_graphs_of_ever_other_lengths_are_no_leak(  # type: ignore[no-untyped-def]
    pipeline, state: Takeover, reruns: list[Rerun]
) -> None:
    assert MOST_GRAPHS < RUNS
    state.watch = MemoryWatch(lambda: 1000 * len(state.graphs), limit=1)
    for steps in range(1, RUNS + 2):
        picture(pipeline, steps, guidance_scale=1.0)
    assert len(reruns) == RUNS + 1
    assert not state.broken


def test_weights_that_lie_elsewhere_are_captured_anew(  # type: ignore[no-untyped-def]
    pipeline, state: Takeover, captures: Captures
) -> None:
    before = picture(pipeline, 1)
    weight = pipeline.unet.conv_out.weight
    original = weight.data
    weight.data = original * 1.5
    try:
        after = picture(pipeline, 1)
    finally:
        weight.data = original
    assert not np.allclose(after, before, atol=2e-3)
    np.testing.assert_allclose(picture(pipeline, 1), before, atol=2e-4)
    assert [graph.was_reset for graph in captures.graphs] == [True, True, False]


def test_a_capture_lets_other_threads_work_and_happens_on_the_card_of_its_values(
    captures: Captures,
) -> None:
    values = [torch.ones(2), torch.ones(2)]
    result = capture(lambda tensors: tensors[0] + tensors[1], values)
    assert ("mode", "thread_local") in captures.calls
    assert ("device", values[0].device) in captures.calls
    assert ("stream", values[0].device) in captures.calls
    assert result([torch.ones(2), torch.full((2,), 4.0)]).tolist() == [5.0, 5.0]
