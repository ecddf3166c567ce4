"""From recorded spans to a ledger that adds up: pure functions of data.

A call is a tree of spans. Each denoising loop is one more, transparent, span that adopts what runs
inside it. An opaque span (a component) gives its whole duration to its own stage and part; a
transparent one (a method, a loop) keeps only what none of its children took, as glue. What
torch.compile spends inside of a component is taken out of it, as a stage of its own. So every
moment of the call belongs to exactly one row, or to `unexplained`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from halftime.base.stats import median, middle_half, quantile, spread
from halftime.records import LedgerRow, Run, Span, StepStats
from halftime.records.session import UNEXPLAINED
from halftime.records.stages import COMPILATION, STAGE_ORDER, Place

GLUE = "glue"
LOOP = Place("denoise", "loop")
DENOISER = "denoiser"
STEP = "scheduler.step"  # the span whose end ends a denoising step
UPDATE = "progress_bar.update"  # likewise, in a loop that steps without a scheduler
TURN = "progress_bar.next"  # begins a step, where the loop goes over the bar itself
BAR = "progress_bar"
UNSTEADY = (GLUE, BAR)  # what does not happen once a step


@dataclass(frozen=True, slots=True)
class Node:
    """A span with its children, in seconds from the start of the call."""

    place: Place
    name: str
    start: float
    end: float
    host_seconds: float | None = None
    step: int | None = None  # where it is known; counted from the scheduler's steps otherwise
    children: list[Node] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.end - self.start


def with_loops(roots: list[Node], loop_starts: Sequence[float]) -> list[Node]:
    """Put the spans of each denoising loop under a span of its own.

    A loop begins where its progress bar was created, or at the first denoising span where there
    is no bar, and ends with the last denoising span before the next loop begins.
    """
    denoising = [node for node in roots if node.place.stage == LOOP.stage]
    if not denoising:
        return roots
    starts = list(loop_starts) or [denoising[0].start]
    result = list(roots)
    for start, following in zip(starts, [*starts[1:], float("inf")], strict=True):
        ends = [node.end for node in denoising if start <= node.start < following]
        if ends:
            result = _adopt(result, start, max(ends))
    return result


def _adopt(nodes: list[Node], start: float, end: float) -> list[Node]:
    inside = [node for node in nodes if start <= node.start and node.end <= end]
    loop = Node(Place(LOOP.stage, ""), LOOP.part, start, end, children=inside)
    outside = [node for node in nodes if not (start <= node.start and node.end <= end)]
    return sorted([*outside, loop], key=lambda node: node.start)


Costs = dict[Place, float]


def costs(nodes: Iterable[Node]) -> Costs:
    """Seconds by stage and part; they add up to the time that the nodes cover."""
    total: Costs = defaultdict(float)
    for node in nodes:
        if node.place.part:
            compilations = _compilations(node)
            for inner in compilations:
                total[inner.place] += inner.seconds
            total[node.place] += node.seconds - sum(inner.seconds for inner in compilations)
            continue
        for (stage, part), seconds in costs(node.children).items():
            total[Place(stage, part)] += seconds
        total[Place(node.place.stage, GLUE)] += node.seconds - sum(
            child.seconds for child in node.children
        )
    return total


def _compilations(node: Node) -> list[Node]:
    """The spans inside of a component's that are torch.compile's."""
    if node.place.stage == COMPILATION:
        return []
    return [
        span
        for child in node.children
        for span in ([child] if child.place.stage == COMPILATION else _compilations(child))
    ]


class StepRule(NamedTuple):
    """How the steps of a loop are told apart: by a span at the end of each, or at its beginning."""

    name: str
    ends_it: bool


BY_SCHEDULER = StepRule(STEP, ends_it=True)


def step_rule(children: Sequence[Node]) -> StepRule:
    """By the scheduler's steps; in a loop without them by the progress bar, and where that says
    nothing by the first denoiser that is called several times."""
    calls = Counter(child.name for child in children)
    if not calls[STEP]:
        for rule in (StepRule(UPDATE, ends_it=True), StepRule(TURN, ends_it=False)):
            if calls[rule.name] > 1:
                return rule
        for child in children:
            if child.place.part == DENOISER and calls[child.name] > 1:
                return StepRule(child.name, ends_it=False)
    return BY_SCHEDULER


def spans(
    nodes: Iterable[Node],
    depth: int = 0,
    step: int | None = None,
    rule: StepRule = BY_SCHEDULER,
) -> list[Span]:
    """The tree as flat records, in order; the steps of a loop are counted by its rule."""
    records: list[Span] = []
    loop_step = step
    begun = False
    for node in nodes:
        inner = BY_SCHEDULER
        if node.name == LOOP.part and not node.place.part:
            loop_step, inner = 0, step_rule(node.children)
        if node.name == rule.name and not rule.ends_it and loop_step is not None:
            loop_step += begun
            begun = True
        records.append(
            Span(
                stage=node.place.stage,
                name=node.name,
                part=node.place.part,
                start=node.start,
                seconds=node.seconds,
                depth=depth,
                step=node.step if node.step is not None else loop_step,
                host_seconds=node.host_seconds,
            )
        )
        records += spans(node.children, depth + 1, loop_step, inner)
        if node.name == rule.name and rule.ends_it and loop_step is not None:
            loop_step += 1
        if depth == 0:
            loop_step = step
    return records


@dataclass(frozen=True)
class Measured:
    """One call, timed: its record, and its seconds by stage and part."""

    run: Run
    costs: Costs


def measured(nodes: list[Node], wall_seconds: float, load_average: float | None = None) -> Measured:
    """The record of one call, and its costs, from its tree."""
    run = Run(wall_seconds=wall_seconds, spans=tuple(spans(nodes)), load_average=load_average)
    return Measured(run, dict(costs(nodes)))


def steady_wall(runs: Sequence[Measured]) -> float:
    """The wall clock that the ledger divides: the mean over the middle half of the runs."""
    middle = middle_half([call.run.wall_seconds for call in runs])
    return sum(runs[index].run.wall_seconds for index in middle) / len(middle)


def ledger(runs: Sequence[Measured], first: Measured | None = None) -> tuple[LedgerRow, ...]:
    """Rows that add up to `steady_wall(runs)`, with the first call's beside them.

    Stages come in the table's order, stages that it does not list after them, the costliest first.
    Raises ValueError without runs.
    """
    if not runs:
        raise ValueError("a ledger needs at least one run")
    wall = steady_wall(runs)
    middle = [runs[index] for index in middle_half([call.run.wall_seconds for call in runs])]
    keys = set().union(*(call.costs for call in [*middle, *([first] if first else [])]))
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for stage, part in keys:
        total = sum(call.costs.get(Place(stage, part), 0.0) for call in middle)
        parts[stage][part] = total / len(middle)
    rows = [_stage_row(stage, parts[stage], wall, runs, first) for stage in parts]
    rows.sort(key=_row_order)
    return (*rows, _unexplained(rows, wall, first))


def _row_order(row: LedgerRow) -> tuple[int, float]:
    listed = row.stage in STAGE_ORDER
    return STAGE_ORDER.index(row.stage) if listed else len(STAGE_ORDER), -row.seconds


def _stage_row(
    stage: str,
    parts: dict[str, float],
    wall: float,
    runs: Sequence[Measured],
    first: Measured | None,
) -> LedgerRow:
    seconds = sum(parts.values())
    row = LedgerRow(
        stage=stage,
        seconds=seconds,
        share=seconds / wall,
        first_call_seconds=_first(first, stage, None),
        per_step=_per_step(runs, stage, None),
    )
    order = sorted(parts, key=lambda part: (part == GLUE, -parts[part]))
    inner = tuple(_part_row(row, part, parts[part], wall, runs, first) for part in order)
    row = msgspec.structs.replace(row, calls=inner[0].calls)
    # A single part says no more than its row does.
    return row if len(inner) == 1 else msgspec.structs.replace(row, parts=inner)


def _part_row(
    row: LedgerRow,
    part: str,
    seconds: float,
    wall: float,
    runs: Sequence[Measured],
    first: Measured | None,
) -> LedgerRow:
    return LedgerRow(
        stage=part,
        seconds=seconds,
        share=seconds / wall,
        first_call_seconds=_first(first, row.stage, part),
        per_step=_per_step(runs, row.stage, part),
        calls=sum(span.stage == row.stage and span.part == part for span in runs[0].run.spans),
    )


def _first(first: Measured | None, stage: str, part: str | None) -> float | None:
    if first is None:
        return None
    return sum(
        value
        for (own_stage, own_part), value in first.costs.items()
        if own_stage == stage and part in (None, own_part)
    )


def _per_step(runs: Sequence[Measured], stage: str, part: str | None) -> StepStats | None:
    if part in UNSTEADY:
        return None
    steps = [step for call in runs for step in step_seconds(call.run.spans, stage, part)]
    if len(steps) < 2:
        return None
    return StepStats(
        count=len(steps) // len(runs),
        median_seconds=median(steps),
        p90_seconds=quantile(steps, 0.9),
        spread=spread(steps),
    )


def step_seconds(run_spans: Sequence[Span], stage: str, part: str | None) -> list[float]:
    """Duration of each denoising step: of one part, or of the whole step where that is None.

    A whole step lasts from the end of one scheduler step to the end of the next; in a loop without
    them, from what is first in it to what is first in the next.
    """
    if part is not None:
        by_step: dict[tuple[int, int], float] = defaultdict(float)
        loop = -1
        for span in run_spans:
            loop += span.depth == 0
            if (
                span.step is not None
                and span.depth == 1
                and span.stage == stage
                and span.part == part
            ):
                by_step[loop, span.step] += span.seconds
        return list(by_step.values())
    steps: list[float] = []
    begin = 0.0
    for span in run_spans:
        if span.depth == 0:
            begin = span.start
        elif (
            span.depth == 1 and span.name == STEP and span.step is not None and span.stage == stage
        ):
            steps.append(span.start + span.seconds - begin)
            begin = span.start + span.seconds
    return steps or _between_beginnings(run_spans, stage)


def _between_beginnings(run_spans: Sequence[Span], stage: str) -> list[float]:
    steps: list[float] = []
    starts: dict[int, float] = {}
    end = 0.0
    for span in run_spans:
        if span.depth == 0:
            steps += _differences([*starts.values(), end])
            starts, end = {}, span.start + span.seconds
        elif (
            span.depth == 1
            and span.step is not None
            and span.stage == stage
            and span.part != BAR  # the bar is closed after the last step
        ):
            starts.setdefault(span.step, span.start)
    return steps + _differences([*starts.values(), end])


def _differences(moments: Sequence[float]) -> list[float]:
    """Between each two; nothing where there are fewer than two steps."""
    pairs = pairwise(moments)
    return [later - earlier for earlier, later in pairs] if len(moments) > 2 else []


def steps_taken(run_spans: Sequence[Span]) -> int:
    """The denoising steps of a call, of all its loops."""
    by_scheduler = sum(span.name == STEP for span in run_spans)
    if by_scheduler:
        return by_scheduler
    loops = [span.depth == 0 for span in run_spans]
    numbers = zip(accumulate(loops), run_spans, strict=True)
    steps = {
        (loop, span.step) for loop, span in numbers if span.step is not None and span.part != BAR
    }
    return len(steps) if len(steps) > 1 else 0  # one alone: nothing told steps apart


def _unexplained(rows: Sequence[LedgerRow], wall: float, first: Measured | None) -> LedgerRow:
    seconds = wall - sum(row.seconds for row in rows)
    return LedgerRow(
        stage=UNEXPLAINED,
        seconds=seconds,
        share=seconds / wall,
        first_call_seconds=None
        if first is None
        else first.run.wall_seconds - sum(first.costs.values()),
    )
