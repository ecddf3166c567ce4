"""Idle time by Python stack as a flame graph: a row a depth, the width is the time."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from halftime.base import units
from halftime.records import HostGap, Session
from halftime.report.charts import INK, PAPER, SERIES, figure, svg

ROW = 0.32  # inches
NARROWEST = 0.004  # of the whole; narrower boxes are left out
NARROWEST_LABEL = 0.08
CHARACTERS = 105  # that the whole width holds


class _Box(NamedTuple):
    """One frame at one depth, in seconds from the left edge."""

    depth: int
    left: float
    width: float
    label: str
    colour: int


def flame(session: Session) -> Markup | None:
    """An inline SVG, or None where nothing was recorded to draw."""
    boxes = _boxes(session.host_gaps)
    total = sum(gap.seconds for gap in session.host_gaps)
    if not boxes or total <= 0:
        return None
    depth = max(box.depth for box in boxes) + 1
    with figure(7.2, ROW * depth + 0.45) as chart:
        axes = chart.subplots()
        for box in boxes:
            if box.width / total < NARROWEST:
                continue
            axes.barh(
                -box.depth,
                box.width,
                left=box.left,
                height=0.94,
                color=SERIES[box.colour % len(SERIES)],
                edgecolor=PAPER,
                linewidth=0.6,
                alpha=0.45,
            )
            letters = int(box.width / total * CHARACTERS)
            if box.width / total >= NARROWEST_LABEL:
                axes.text(
                    box.left + 0.004 * total,
                    -box.depth,
                    _short(box.label, letters),
                    va="center",
                    fontsize=6.5,
                    color=INK,
                    clip_on=True,
                )
        axes.set_xlim(0, total)
        axes.set_ylim(0.5 - depth, 0.5)
        axes.axis("off")
        axes.set_title(f"{units.seconds(total)} idle, by stack", loc="left", fontsize=9)
        return svg(chart, "Flame graph of the device's idle time by Python stack")


def _boxes(gaps: tuple[HostGap, ...]) -> list[_Box]:
    """Stacks side by side, equal beginnings joined, stage by stage."""
    stacks = sorted(([gap.stage, *reversed((gap.frame, *gap.where))], gap.seconds) for gap in gaps)
    colours = {stage: at for at, stage in enumerate(dict.fromkeys(gap.stage for gap in gaps))}
    open_boxes: list[tuple[str, float]] = []  # label and left edge by depth
    boxes: list[_Box] = []
    edge, colour = 0.0, 0
    for stack, seconds in [*stacks, ([], 0.0)]:
        shared = 0
        for (label, _), frame in zip(open_boxes, stack, strict=False):
            if label != frame:
                break
            shared += 1
        for depth in range(len(open_boxes) - 1, shared - 1, -1):
            label, left = open_boxes.pop()
            boxes.append(_Box(depth, left, edge - left, label, colour))
        open_boxes += [(frame, edge) for frame in stack[shared:]]
        colour = colours.get(stack[0], 0) if stack else colour
        edge += seconds
    return boxes


def _short(frame: str, letters: int) -> str:
    """'cache_context, cache_utils.py(154)', as much as fits."""
    line, _, function = frame.rpartition(": ")
    text = f"{function}, {line.rpartition('/')[2]}" if line else frame
    return text if len(text) <= letters else f"{text[: max(1, letters - 1)]}…"
