"""The roofline picture: what the GPU could do, and where each stage's operations stand under it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup

from halftime.records.forecast import Forecast, OperationShare
from halftime.report.charts import FAINT, INK, PAPER, SERIES, figure, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top; points
_LEAST_LABELLED = 0.02  # of the total
_MARKS = {"encode_prompt": "s", "denoise": "o", "vae_decode": "D", "postprocess": "^"}
# Kinds that do no arithmetic worth a point stand at the left edge by what memory they move.
_LEAST_INTENSITY = 0.25  # FLOP a byte
_SMALLEST_SHARE = 0.002
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def roofline(forecast: Forecast) -> Markup:
    """An inline SVG: FLOP/s over FLOP per byte, one mark for each stage and kind of operation."""
    total = sum(share.seconds for share in forecast.operations) or 1.0
    shares = [share for share in forecast.operations if share.seconds / total >= _SMALLEST_SHARE]
    with figure(7.2, 3.9) as chart:
        axes = chart.subplots()
        peak, bandwidth = forecast.ceiling.compute, forecast.ceiling.bandwidth
        ridge = peak / bandwidth
        left, right = (
            _LEAST_INTENSITY / 2,
            max(ridge * 20, 4 * max((_intensity(s) for s in shares), default=1.0)),
        )
        roof = [left * bandwidth, peak, peak]
        axes.plot([left, ridge, right], roof, color=INK, linewidth=1.4, zorder=1)
        _note(axes, f"{peak / 1e12:,.0f} TFLOP/s {forecast.dtype}", (right, peak), (0, 4))
        _note(axes, f"{bandwidth / 1e9:,.0f} GB/s", (ridge / 6, peak / 6), (-4, 4))
        stages = [stage.stage for stage in forecast.stages]
        for share in reversed(shares):
            colour = SERIES[stages.index(share.stage) % len(SERIES)]
            axes.scatter(
                _intensity(share),
                _rate(share),
                s=_size(share, total),
                color=colour,
                marker=_MARKS.get(share.stage, "o"),
                edgecolors=PAPER,
                linewidths=0.8,
                alpha=0.85,
                zorder=2,
            )
        for stage in dict.fromkeys(share.stage for share in shares):
            colour = SERIES[stages.index(stage) % len(SERIES)]
            axes.scatter([], [], color=colour, marker=_MARKS.get(stage, "o"), label=stage)
        axes.set(xscale="log", yscale="log", xlim=(left, right))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: _power_of_ten(value))
            axis.set_minor_formatter(lambda *_: "")
        axes.set(xlabel="FLOP per byte moved", ylabel="FLOP/s")
        axes.set_ylim(min(map(_rate, shares), default=left * bandwidth) / 4, peak * 2.5)
        axes.grid(color=FAINT, linewidth=0.3, alpha=0.5)
        axes.legend(loc="lower right", fontsize=8)
        _label(axes, shares, total)
        label = f"Roofline of the {forecast.gpu} with the operations of {forecast.model}"
        return svg(chart, label)


def _power_of_ten(value: float) -> str:
    """1000.0 -> '10³'; matplotlib's own labels are formulas, which figures do not parse."""
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPT)


def _note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float]) -> None:
    """A small text left of `at`; `offset` in points."""
    axes.annotate(
        text, at, xytext=offset, textcoords="offset points", ha="right", color=INK, fontsize=8
    )


def _size(share: OperationShare, total: float) -> float:
    """Area of a mark, in square points."""
    return 22 + 900 * share.seconds / total


def _label(axes: Axes, shares: list[OperationShare], total: float) -> None:
    """Name the largest marks, each on the side where its name covers the least."""
    points_a_pixel = 72 / axes.figure.dpi
    marks = [
        axes.transData.transform((_intensity(share), _rate(share))) * points_a_pixel
        for share in shares
    ]
    boxes_in_use = [
        (x - r, y - r, x + r, y + r)
        for (x, y), s in zip(marks, shares, strict=True)
        for r in [_size(s, total) ** 0.5 / 2]
    ]
    for (x, y), share in zip(marks, shares, strict=True):
        if share.seconds < _LEAST_LABELLED * total:
            continue
        text, radius = (
            f"{share.kind} {share.seconds / total:.0%}",
            _size(share, total) ** 0.5 / 2 + 2,
        )
        width, height = 4.1 * len(text), 8.0
        sides = (
            (radius, -3.0),
            (-radius - width, -3.0),
            (-width / 2, -radius - height),
            (-width / 2, radius),
            (radius, -3.0 - height),
            (radius, -3.0 - 2 * height),
        )
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in sides]
        best = min(
            range(len(sides)), key=lambda i: sum(_overlap(boxes[i], box) for box in boxes_in_use)
        )
        boxes_in_use.append(boxes[best])
        axes.annotate(
            text,
            (_intensity(share), _rate(share)),
            xytext=sides[best],
            textcoords="offset points",
            color=INK,
            fontsize=7.5,
        )


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _intensity(share: OperationShare) -> float:
    return max(share.flops / share.bytes if share.bytes else 0.0, _LEAST_INTENSITY)


def _rate(share: OperationShare) -> float:
    """FLOP/s; what only moves memory is drawn as if it did the least intensity's arithmetic."""
    return max(share.flops, share.bytes * _LEAST_INTENSITY) / share.seconds
