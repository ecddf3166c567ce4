"""A call as a time line to zoom: stages above, their components below; d3 draws it in the page."""

from __future__ import annotations

import json

from halftime.records import Run, Session
from halftime.records.stages import COLOURS
from halftime.report.model import Html, Script
from halftime.report.templates import render

# The series colour of stages without one in the table.
OTHER = 6
SCRIPTS: tuple[Script, ...] = ("d3.min.js", "timeline.js")


def timeline(session: Session) -> Html | None:
    """The widget, which needs SCRIPTS; None for a session without spans."""
    ranked = sorted(session.runs, key=lambda run: run.wall_seconds)
    median_run = ranked[(len(ranked) - 1) // 2] if ranked else None
    candidates = {"steady call": median_run, "first call": session.first_run}
    calls = {name: run for name, run in candidates.items() if run is not None and run.spans}
    if not calls:
        return None
    stages = dict.fromkeys(span.stage for run in calls.values() for span in run.spans)
    markup = render(
        "timeline.html",
        calls_json=json.dumps(
            {name: _call_data(run) for name, run in calls.items()}, separators=(",", ":")
        ),
        call_names=list(calls),
        stages={stage: COLOURS.get(stage, OTHER) for stage in stages},
    )
    return Html(markup, caption="The run whose wall clock is the median.")


def _call_data(run: Run) -> dict[str, object]:
    """[start, length, depth, label, colour, stage] of each span; in µs, which keeps it small."""
    return {
        "wall": round(run.wall_seconds * 1e6),
        "spans": [
            [
                round(span.start * 1e6),
                round(span.seconds * 1e6),
                min(span.depth, 2),
                span.name + (f", step {span.step}" if span.step is not None and span.depth else ""),
                COLOURS.get(span.stage, OTHER),
                span.stage,
            ]
            for span in run.spans
        ],
    }
