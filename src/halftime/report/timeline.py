"""A call as a time line to zoom: bars by stage above, the components inside below; drawn in the
page by d3."""

from __future__ import annotations

import json

from halftime.records import Run, Session
from halftime.records.stages import COLOURS
from halftime.report.model import Html
from halftime.report.page import asset

# The series colour of stages without one in the table.
OTHER = 6

_MARKUP = """<div class="timeline" data-calls="{data}">
<div class="screen-only timeline-tools" role="group" aria-label="which call">{buttons}
<span class="timeline-help">drag to move, ctrl + wheel or pinch to zoom, double-click to reset;
+ and - on the keyboard</span></div>
<svg class="chart timeline-chart" tabindex="0" role="img"
 aria-label="Time line of one call, stage by stage"></svg>
<p class="timeline-legend">{legend}</p></div>"""


def timeline(session: Session) -> tuple[Html | None, tuple[str, ...]]:
    """The widget and the scripts that it needs; (None, ()) for a session without spans."""
    calls = {"steady call": _median_run(session), "first call": session.first_run}
    drawn = {name: _call(run) for name, run in calls.items() if run is not None and run.spans}
    if not drawn:
        return None, ()
    data = (
        json.dumps(drawn, separators=(",", ":"))
        .replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("<", "&lt;")
    )
    buttons = "".join(
        f'<button type="button" aria-pressed="{"true" if i == 0 else "false"}">{name}</button>'
        for i, name in enumerate(drawn)
    )
    stages = dict.fromkeys(span.stage for run in calls.values() if run for span in run.spans)
    legend = " ".join(
        f'<span><i style="background:var(--series-{_colour(stage)})"></i>{stage}</span>'
        for stage in stages
    )
    markup = _MARKUP.format(data=data, buttons=buttons, legend=legend)
    return Html(markup, caption="The run whose wall clock is the median."), (
        asset("d3.min.js"),
        asset("timeline.js"),
    )


def _median_run(session: Session) -> Run | None:
    ranked = sorted(session.runs, key=lambda run: run.wall_seconds)
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def _colour(stage: str) -> int:
    return COLOURS.get(stage, OTHER)


def _call(run: Run) -> dict[str, object]:
    """[start, seconds, depth, label, colour] for each span; microseconds, which keep the page
    small."""
    return {
        "wall": round(run.wall_seconds * 1e6),
        "spans": [
            [
                round(span.start * 1e6),
                round(span.seconds * 1e6),
                min(span.depth, 2),
                span.name + (f", step {span.step}" if span.step is not None and span.depth else ""),
                _colour(span.stage),
                span.stage,
            ]
            for span in run.spans
        ],
    }
