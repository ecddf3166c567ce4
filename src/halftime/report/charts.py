"""Figures as inline SVG: drawn by matplotlib, in the page's colours, light and dark."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

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
    "text.parse_math": False,  # names in the data may hold dollar signs
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
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextmanager
def figure(width: float = 7.2, height: float = 3.2) -> Iterator[Figure]:
    """A figure in the page's style, in inches; its colours are SERIES, INK, FAINT and PAPER."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(chart: Figure, label: str) -> Markup:
    """The figure as an inline SVG element that scales with the page; screen readers read `label`.

    Call inside `figure()`, whose style also governs writing. matplotlib's file is parsed and
    written again without `style`, which the page's content security policy forbids.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser has fonts for the names that matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        chart.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    source = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue())
    root = ElementTree.fromstring(source)
    for element in list(root.iter()):
        element.tag = _local_name(element.tag)  # inside HTML an SVG element needs no namespaces
        element.attrib = _presentation_attributes(element.attrib)
        for child in list(element):
            if _local_name(child.tag) in ("metadata", "style"):
                element.remove(child)
    root.attrib = {
        "class": "chart",
        "role": "img",
        "aria-label": label,
        "viewBox": root.attrib["viewBox"],
        # what the removed style element said of every element
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local_name(name: str) -> str:
    """'{http://www.w3.org/1999/xlink}href' -> 'href'."""
    return name.rpartition("}")[2]


def _presentation_attributes(attributes: dict[str, str]) -> dict[str, str]:
    """Attributes with each declaration of `style` as one of them, and the page's colours."""
    plain = {_local_name(name): value for name, value in attributes.items()}
    for declaration in plain.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        if value:
            plain[name.strip()] = value.strip()
    return {
        name: re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], value)
        for name, value in plain.items()
    }
