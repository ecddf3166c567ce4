"""The denoiser's forward pass as a CUDA graph for each batch size, on a stand-in that knows
addresses and keeps nothing alive."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from test_serve_step_drawing import OFFERED, SETTINGS, Notes, nothing, own, small, studio

from cuda_stand_ins import Captures
from halftime.base.errors import OutOfMemory
from halftime.verbs.serve import step_drawing, step_proof
from halftime.verbs.serve.step_drawing import StepDrawing, run_to_end
from halftime.verbs.serve.step_graphs import StepGraphs
from halftime.verbs.serve.step_proof import Proof, prove
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import open_studio


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    stand_in = Captures()
    stand_in.put_in_place(monkeypatch)
    return stand_in


def step_graphs(**changes: object) -> StepGraphs:
    values = {"reserved": lambda: 0} | changes
    return StepGraphs(studio().pipeline.unet, **values)  # type: ignore[arg-type]


@pytest.fixture
def proof(captures: Captures, monkeypatch: pytest.MonkeyPatch) -> Proof:
    """As on CUDA."""
    monkeypatch.setattr(step_proof, "FEW_STEPS", 1)
    monkeypatch.setattr(step_proof, "graphs_for", lambda opened: step_graphs())
    return prove(studio(), OFFERED, nothing)


def drawing(graphs: StepGraphs, sizes: tuple[int, ...] = (1, 2)) -> tuple[StepDrawing, Notes]:
    notes = Notes()
    return StepDrawing(studio(), notes, sizes=sizes, graphs=graphs), notes


def test_each_batch_size_is_captured_before_ready_and_nothing_after(
    proof: Proof, captures: Captures
) -> None:
    assert (proof.refusal, proof.sizes) == ("", (1, 2))
    assert len(captures.graphs) == 2  # alone, and two together
    assert "2 forward passes are CUDA graphs" in proof.certify(OFFERED).scheduling_why
    assert proof.graphs is not None
    turns, notes = drawing(proof.graphs)
    replays = sum(graph.replays for graph in captures.graphs)
    for name, steps in (("a", 3), ("b", 2)):
        turns.add(small(name, steps))
    run_to_end(turns)
    assert sum(graph.replays for graph in captures.graphs) - replays == 3  # two shared
    turns.add(small("unguided", 2, guidance=1.0))  # never captured, so drawn without
    run_to_end(turns)
    assert len(captures.graphs) == 2
    for name, steps in (("a", 3), ("b", 2)):
        difference = step_proof.grey_levels(notes.pictures[name].pixels, own(small(name, steps)))
        assert difference <= 1
    np.testing.assert_array_equal(
        notes.pictures["unguided"].pixels, own(small("unguided", 2, guidance=1.0))
    )


def test_alone_through_a_graph_it_is_the_same_picture(proof: Proof) -> None:
    assert proof.graphs is not None
    turns, notes = drawing(proof.graphs, (1,))
    turns.add(small("a", 3))
    turns.turn()
    turns.add(small("b", 1, seed=2))
    run_to_end(turns)
    for name, one in (("a", small("a", 3)), ("b", small("b", 1, seed=2))):
        np.testing.assert_array_equal(notes.pictures[name].pixels, own(one))


def test_what_the_graphs_reserve_is_bounded(captures: Captures) -> None:
    levels = iter(range(0, 100, 10))
    graphs = step_graphs(reserved=lambda: next(levels), most_bytes=5)
    turns, notes = drawing(graphs)
    for name, steps in (("a", 2), ("b", 1)):
        turns.add(small(name, steps))
    run_to_end(turns)
    assert (len(captures.graphs), graphs.bytes, graphs.why) == (1, 10, "the graphs hold 10 B")
    assert set(notes.pictures) == {"a", "b"}


def test_a_pass_that_cannot_be_captured_runs_without_a_graph() -> None:
    def capture(function: object, values: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = step_graphs(capture=capture)
    turns, notes = drawing(graphs)
    turns.add(small("a", 2))
    run_to_end(turns)
    assert "could not be captured (operation not permitted" in graphs.why
    np.testing.assert_array_equal(notes.pictures["a"].pixels, own(small("a", 2)))


def test_where_pictures_through_graphs_are_others_they_are_not_used(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = step_graphs(capture=lambda function, values: lambda values: 0 * function(values))
    monkeypatch.setattr(step_proof, "FEW_STEPS", 1)
    monkeypatch.setattr(step_proof, "graphs_for", lambda opened: graphs)
    proof = prove(studio(), OFFERED, nothing)
    assert (proof.refusal, proof.graphs, graphs.graphs) == ("", None, {})
    assert "differs by" in graphs.why


def test_where_memory_runs_out_the_graphs_go_before_a_request_does(
    proof: Proof, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, graphs = step_drawing.advance, proof.graphs
    assert graphs is not None

    def advance(*arguments: object) -> object:
        if graphs.graphs:
            raise OutOfMemory("too much")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(step_drawing, "advance", advance)
    turns, notes = drawing(graphs)
    turns.add(small("a", 2))
    run_to_end(turns)
    assert set(notes.pictures) == {"a"}
    assert (graphs.graphs, graphs.bytes, graphs.why) == ({}, 0, "memory ran out")
    assert all(graph.was_reset for graph in captures.graphs)


def test_where_the_weights_move_the_graphs_are_dropped(proof: Proof, captures: Captures) -> None:
    graphs, weight = proof.graphs, next(studio().pipeline.unet.parameters())
    assert graphs is not None
    graphs.look()
    assert len(graphs.graphs) == 2
    before = weight.data
    weight.data = before.clone()
    try:
        graphs.look()
    finally:
        weight.data = before
    assert (graphs.graphs, graphs.why) == ({}, "the weights have moved")


def test_a_denoiser_that_a_fix_compiles_is_not_captured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert step_proof.graphs_for(studio()) is None  # on the CPU
    monkeypatch.setattr(step_proof, "device_of", lambda pipeline: torch.device("cuda", 0))
    assert step_proof.graphs_for(studio()) is not None
    monkeypatch.setattr(studio(), "fixes", ("denoiser-compile",))
    assert step_proof.graphs_for(studio()) is None


@pytest.mark.gpu
def test_on_a_real_device_a_request_that_is_overtaken_is_the_same_picture() -> None:
    opened = open_studio(msgspec.structs.replace(SETTINGS, device="cuda"))
    proof = prove(opened, OFFERED, nothing)
    assert proof.refusal == ""
    assert proof.graphs is not None
    assert proof.graphs.graphs
    notes = Notes()
    turns = StepDrawing(opened, notes, graphs=proof.graphs)
    turns.add(small("long", 4))
    turns.turn()
    turns.add(small("short", 1, seed=2))
    run_to_end(turns)
    assert notes.lines.index("short ends") < notes.lines.index("long ends")
    for one in (small("long", 4), small("short", 1, seed=2)):
        drawn = opened.draw([one], Watch([one], lambda one=one: [one])).pictures[0]  # type: ignore[misc]
        np.testing.assert_array_equal(notes.pictures[one.id].pixels, drawn)
