"""A Verdict as a Report."""

from __future__ import annotations

import base64

from halftime.records.verdict import EVERYTHING, Comparison, Verdict, VisibleShare
from halftime.report import charts
from halftime.report.model import Block, Bullets, Cell, Column, Html, Report, Section, Table, Text
from halftime.report.templates import render

_TONES = {"equivalent": "good", "different": "bad", "inconclusive": "warning"}
_COLOURS = {"equivalent": 2, "different": 1, "inconclusive": 4}  # of charts.SERIES


def report_of(verdict: Verdict, sheet_png: bytes | None = None) -> Report:
    """The verdict, what it rests on, and the contact sheet where its bytes are given."""
    return Report(
        title=f"{verdict.candidate} against {verdict.baseline}{_place(verdict)}: {verdict.verdict}",
        summary=summary_of(verdict),
        sections=tuple(
            section
            for section in (
                Section("Why", (_reasons(verdict),)),
                Section("Single pairs", _single(verdict)),
                Section("By class and metric", (*_chart(verdict), _table(verdict))),
                Section("The noise floor", (_floor(verdict),)),
                Section("Worst pairs", _worst(verdict, sheet_png)),
                Section("How far to trust this", (_notes(verdict),)),
            )
            if section.blocks
        ),
    )


def _place(verdict: Verdict) -> str:
    """Folders of pictures were drawn on a device that nobody can name."""
    return f" on {verdict.environment.place()}" if verdict.environment else ""


def summary_of(verdict: Verdict) -> str:
    """The verdict in a sentence."""
    margin = f"{verdict.margin:g} noise floors"
    if verdict.verdict == "equivalent":
        return (
            f"Equivalent: over {verdict.pairs} pairs every metric that decides stays within "
            f"{margin}{_bound(verdict)}."
        )
    if verdict.verdict == "different":
        return (
            f"Different: {verdict.reasons[0] if verdict.reasons else 'no pair could be compared'}."
        )
    need = f"about {verdict.prompts_needed:,} prompts" if verdict.prompts_needed else "more prompts"
    return (
        f"Inconclusive with {verdict.pairs} pairs: {need} would settle it against a margin of "
        f"{margin}."
    )


def _bound(verdict: Verdict) -> str:
    if verdict.visible is None:
        return ""
    return f"; {_at_most(verdict.visible)} of pictures differ visibly"


def _at_most(share: VisibleShare) -> str:
    return f"at most {100 * share.at_most:.1f} % ({100 * share.confidence:g} % confidence)"


def _single(verdict: Verdict) -> tuple[Block, ...]:
    """The share of pictures that differ visibly, and the pairs that differ by themselves."""
    share = verdict.visible
    if share is None:
        return ()
    differ = "differs" if share.different == 1 else "differ"
    counted = f"{share.different} of {share.pairs} pictures {differ} visibly"
    rows: list[tuple[Cell, ...]] = [
        (outlier.name, outlier.content_class, _number(outlier.floors), outlier.reason)
        for outlier in verdict.outliers
    ]
    columns = (Column("picture"), Column("class"), Column("floors"), Column("why", wide=True))
    return (
        Bullets((Text(f"{counted}; of all, {_at_most(share)} do."),)),
        *([Table(columns, tuple(rows))] if rows else []),
    )


def _reasons(verdict: Verdict) -> Bullets:
    tone = _TONES[verdict.verdict]
    reasons = verdict.reasons[:8]
    more = [Text(f"and {len(verdict.reasons) - 8} more")] if len(verdict.reasons) > 8 else []
    return Bullets((*(Text(reason, tone) for reason in reasons), *more))  # type: ignore[arg-type]


def _number(value: float) -> str:
    """Three digits; thousands without an exponent."""
    return "0" if value == 0 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(verdict: Verdict) -> Table:
    columns = (
        Column("class"),
        Column("metric"),
        Column("pairs", "count"),
        Column("mean"),
        Column("90 % interval", wide=True),
        Column("floors"),
        Column("decision"),
    )
    rows: list[tuple[Cell, ...]] = [_cells(comparison) for comparison in verdict.per_class]
    bold = {
        i
        for i, comparison in enumerate(verdict.per_class)
        if comparison.content_class == EVERYTHING and comparison.decides
    }
    return Table(columns, tuple(rows), emphasis=frozenset(bold))


def _cells(comparison: Comparison) -> tuple[Cell, ...]:
    decision = comparison.decision if comparison.decides else f"({comparison.decision})"
    if comparison.stands_aside:
        decision += ", stands aside"
    if comparison.prompts_needed and comparison.decides:
        decision += f", {comparison.prompts_needed:,} prompts"
    interval = f"{_number(comparison.low)} to {_number(comparison.high)}"
    return (
        comparison.content_class,
        comparison.metric,
        comparison.pairs,
        _number(comparison.value),
        interval.replace(" ", "\N{NO-BREAK SPACE}"),
        _number(comparison.floors),
        decision,
    )


def _chart(verdict: Verdict) -> tuple[Block, ...]:
    """Each deciding comparison's interval in noise floors, with the margin as a line."""
    deciding = [comparison for comparison in verdict.per_class if comparison.decides]
    if not deciding:
        return ()
    with charts.figure(7.2, 0.6 + 0.3 * len(deciding)) as figure:
        axes = figure.subplots()
        for height, comparison in enumerate(reversed(deciding)):
            floor = verdict.noise_floor[comparison.metric]
            low, high = comparison.low / floor, comparison.high / floor
            colour = charts.SERIES[
                {"equivalent": 2, "different": 1, "inconclusive": 4}[comparison.decision]
            ]
            axes.plot(
                [low, high], [height, height], color=colour, linewidth=2.4, solid_capstyle="round"
            )
            axes.plot([comparison.value / floor], [height], "o", color=colour, markersize=4)
        if max(c.high / verdict.noise_floor[c.metric] for c in deciding) > 20 * verdict.margin:
            axes.set_xscale("symlog", linthresh=verdict.margin)
        axes.axvline(verdict.margin, color=charts.INK, linewidth=0.9, linestyle="--")
        if min(comparison.low for comparison in deciding) < 0:
            axes.axvline(-verdict.margin, color=charts.INK, linewidth=0.9, linestyle="--")
        axes.set_yticks(
            range(len(deciding)),
            [f"{row.content_class}  {row.metric}" for row in reversed(deciding)],
        )
        axes.set_xlabel(f"noise floors (dashed: the margin of {verdict.margin:g})")
        axes.grid(axis="x")
        return (
            Html(
                charts.svg(
                    figure,
                    "Distance of comparison class and metric in noise floors, with 90 % intervals",
                )
            ),
        )


def _floor(verdict: Verdict) -> Table:
    sources = list(dict.fromkeys(entry.source for entry in verdict.floor_entries))
    columns = (Column("metric"), *(Column(source) for source in sources), Column("one floor"))
    values = {(entry.metric, entry.source): entry.value for entry in verdict.floor_entries}
    rows: list[tuple[Cell, ...]] = [
        (
            metric,
            *(_number(values[metric, s]) if (metric, s) in values else None for s in sources),
            _number(value),
        )
        for metric, value in verdict.noise_floor.items()
    ]
    return Table(columns, tuple(rows))


def _worst(verdict: Verdict, sheet_png: bytes | None) -> tuple[Block, ...]:
    if not verdict.worst_pairs:
        return ()
    metrics = list(verdict.worst_pairs[0].metrics)
    columns = (
        Column("picture"),
        Column("class"),
        *(Column(m, wide=i > 2) for i, m in enumerate(metrics)),
        Column("prompt", wide=True),
    )
    rows: list[tuple[Cell, ...]] = [
        (pair.name, pair.content_class, *(_number(pair.metrics[m]) for m in metrics), pair.prompt)
        for pair in verdict.worst_pairs
    ]
    blocks: list[Block] = []
    if sheet_png is not None:
        data = base64.b64encode(sheet_png).decode()
        picture = render("contact_sheet.html", picture=f"data:image/png;base64,{data}")
        blocks.append(Html(picture, caption="Worst pairs first, by class."))
    return (*blocks, Table(columns, tuple(rows)))


def _notes(verdict: Verdict) -> Bullets:
    skipped = [
        Text(f"{metric} was not computed: {reason}.") for metric, reason in verdict.skipped.items()
    ]
    return Bullets((*(Text(note) for note in verdict.notes), *skipped))
