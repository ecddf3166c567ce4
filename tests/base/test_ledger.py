"""The ledger adds up: for any tree of spans, and on a fake pipeline whose costs are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base.ledger import (
    Node,
    costs,
    ledger,
    measured,
    steady_wall,
    step_seconds,
    with_loops,
)
from halftime.records import LedgerRow, Workload
from halftime.records.stages import Place
from halftime.testing import FakeClock, FakePipeline
from halftime.verbs.profile.call import timed_call

STAGES = ("encode_prompt", "denoise", "vae_decode", "new_thing (stage not recognised)")


@st.composite
def trees(draw: st.DrawFn, start: float = 0.0, depth: int = 0) -> tuple[list[Node], float]:
    """Nodes in order that do not overlap, with the time at which the last ends."""
    nodes: list[Node] = []
    now = start
    for _ in range(draw(st.integers(0, 4 if depth < 3 else 0))):
        begin = now + draw(st.floats(0, 1))
        children, inner_end = draw(trees(start=begin, depth=depth + 1))
        now = inner_end + draw(st.floats(0, 1))
        home = Place(
            draw(st.sampled_from(STAGES)), draw(st.sampled_from(["", "denoiser", "scheduler"]))
        )
        nodes.append(
            Node(
                home,
                draw(st.sampled_from(["unet", "scheduler.step", "x"])),
                begin,
                now,
                children=children,
            )
        )
    return nodes, now


@given(trees(), st.lists(st.floats(0, 10), max_size=3), st.floats(0, 1))
def test_costs_add_up_to_what_is_covered(
    tree: tuple[list[Node], float], loops: list[float], tail: float
) -> None:
    roots, end = tree
    nodes = with_loops(roots, sorted(loops))
    covered = sum(node.seconds for node in nodes)
    assert sum(costs(nodes).values()) == pytest.approx(covered, abs=1e-9)
    assert min(costs(nodes).values(), default=0.0) >= -1e-9
    wall = end + tail
    if wall:
        rows = ledger([measured(nodes, wall)])
        assert sum(row.seconds for row in rows) == pytest.approx(wall, abs=1e-9)
        assert sum(row.share for row in rows) == pytest.approx(1.0)


@given(trees(), st.lists(st.floats(0, 10), max_size=3))
def test_loops_lose_no_span_and_keep_order(
    tree: tuple[list[Node], float], loops: list[float]
) -> None:
    def names(nodes: list[Node]) -> list[float]:
        return [
            x
            for node in nodes
            for x in ([node.start] if node.name != "loop" else names(node.children))
        ]

    assert sorted(names(with_loops(tree[0], sorted(loops)))) == sorted(
        node.start for node in tree[0]
    )


@given(st.lists(trees(), min_size=1, max_size=7))
def test_parts_add_up_to_their_row_and_rows_to_the_steady_wall(
    forest: list[tuple[list[Node], float]],
) -> None:
    runs = [measured(with_loops(nodes, []), end + 0.5) for nodes, end in forest]
    rows = ledger(runs, runs[0])
    assert sum(row.seconds for row in rows) == pytest.approx(steady_wall(runs))
    assert sum(row.first_call_seconds or 0.0 for row in rows) == pytest.approx(
        runs[0].run.wall_seconds
    )
    for row in rows:
        if row.parts:
            assert sum(part.seconds for part in row.parts) == pytest.approx(row.seconds, abs=1e-9)


def fake_rows(steps: int = 5, **costs: float) -> dict[str, LedgerRow]:
    clock = FakeClock()
    run = timed_call(FakePipeline(clock, costs), Workload(steps=steps), clock)
    return {row.stage: row for row in ledger([run])}


def test_a_fake_pipeline_is_attributed_exactly() -> None:
    rows = fake_rows(
        5, **{"text_encoder": 1, "unet": 2, "scheduler.step": 0.5, "glue": 0.25, "vae.decode": 3}
    )
    assert rows["encode_prompt"].seconds == pytest.approx(1)
    assert rows["denoise"].seconds == pytest.approx(5 * 2.75)
    assert {part.stage: part.seconds for part in rows["denoise"].parts} == pytest.approx(
        {"denoiser": 10, "scheduler": 2.5, "glue": 1.25, "progress_bar": 0}
    )
    assert rows["vae_decode"].seconds == pytest.approx(3)
    assert rows["unexplained"].seconds == pytest.approx(0)


def test_steps_are_told_apart() -> None:
    row = fake_rows(4, unet=2.0, glue=1.0)["denoise"]
    assert row.per_step is not None
    assert row.per_step.count == 4
    assert row.per_step.median_seconds == pytest.approx(3)
    assert row.per_step.spread == pytest.approx(0)


def test_a_component_called_within_the_loop_keeps_its_own_stage() -> None:
    loop = [
        Node(Place("denoise", "denoiser"), "unet", 0, 2),
        Node(Place("vae_decode", "vae"), "vae.decode", 2, 3),
        Node(Place("denoise", "scheduler"), "scheduler.step", 3, 4),
    ]
    by_place = costs(with_loops(loop, [0.0]))
    assert by_place[Place("vae_decode", "vae")] == 1
    assert sum(seconds for (stage, _), seconds in by_place.items() if stage == "denoise") == 3


def test_two_loops_are_two_and_what_lies_between_is_neither() -> None:
    def step(start: float) -> list[Node]:
        return [
            Node(Place("denoise", "denoiser"), "prior", start, start + 1),
            Node(Place("denoise", "scheduler"), "scheduler.step", start + 1, start + 2),
        ]

    between = Node(Place("vae_decode", "vae"), "vqgan.decode", 5, 7)
    nodes = with_loops([*step(0), *step(2), between, *step(10)], [0, 9])
    assert [node.name for node in nodes] == ["loop", "vqgan.decode", "loop"]
    spans = measured(nodes, 12).run.spans
    assert [span.step for span in spans if span.name == "scheduler.step"] == [0, 1, 0]
    assert step_seconds(spans, "denoise", None) == [2, 2, 3]


def test_a_ledger_needs_a_run() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        ledger([])
