"""Figures as inline SVG: drawn by matplotlib, coloured by the page, so that they follow its light
or dark theme."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

# Stand-ins for the page's own colours: drawn in these, then replaced by CSS variables.
INK, FAINT, PAPER = "#010101", "#020202", "#fefefe"
SERIES = ("#010203", "#010204", "#010205", "#010206", "#010207", "#010208")
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, 1)
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "halftime",  # the same data gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}


@contextmanager
def figure(width: float = 7.2, height: float = 3.2) -> Iterator[Figure]:
    """A figure in the page's style, in inches; draw with SERIES, INK, FAINT and PAPER as
    colours."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure, label: str) -> str:
    """The figure as an inline SVG element that scales with the page; `label` is read out by screen
    readers.

    Call inside `figure()`, whose style also governs writing.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", markup, count=1)
    markup = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", markup, count=1)
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    markup = markup.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escaped}" ', 1)
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], markup)
