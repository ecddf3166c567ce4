"""A Tuning as a Report: before and after, pictures, the ladder, and the evidence under them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from halftime.base import units
from halftime.base.stats import FEWEST, bounds_word
from halftime.records.recipe import Rung
from halftime.records.tune import Slide, SweepPoint, Tuning
from halftime.report import verify as verify_report
from halftime.report.certificate import certificate_section
from halftime.report.charts import FAINT, INK, SERIES, figure, svg
from halftime.report.model import (
    Block,
    Bullets,
    Cell,
    Column,
    Html,
    Report,
    Section,
    Table,
    Text,
    rows_of,
)
from halftime.report.session import ledger_table
from halftime.report.stacked import colour_of, stacked_bars
from halftime.report.templates import render


def report_of(tuning: Tuning, slides: Sequence[Slide] = ()) -> Report:
    """The whole report of one tuning run; `slides` are pairs of pictures to look at.

    First the story: before and after, the pictures, what each fix of the recipe brought. The
    evidence is folded on the page.
    """
    sections = [
        Section("Result", tuple(_result(tuning))),
        *_before_and_after(tuning),
        *certificate_section(tuning),
        *_memory(tuning),
        *_pictures(slides),
        *_kept(tuning),
        *_sweep(tuning),
        Section("Every trial", tuple(_trials(tuning)), folded=True),
        *_verdict(tuning),
        *_parts(tuning),
        Section("What was run, where", tuple(_where(tuning)), console=False, folded=True),
    ]
    title = (
        f"{tuning.recipe.pipeline} on {tuning.environment.place()}: "
        f"{units.seconds(tuning.baseline_seconds)} to {units.seconds(tuning.tuned_seconds)}"
    )
    return Report(
        title,
        _summary(tuning),
        tuple(section for section in sections if section.blocks),
        scripts=("slider.js",) if slides else (),
    )


def _summary(tuning: Tuning) -> str:
    names = [choice.name for choice in tuning.recipe.fixes]
    if not names and all(rung.observed is None for rung in tuning.ladder):
        return (
            f"Nothing was tried, because {tuning.stopped}: "
            f"{units.seconds(tuning.baseline_seconds)} a call as it is."
        )
    memory = tuning.memory
    if memory is not None and memory.start and tuning.recipe.fixes == memory.start:
        return (
            f"It fits into {units.size(memory.limit)} with {', '.join(names)}, at "
            f"{units.size(memory.tuned)} and {units.seconds(tuning.tuned_seconds)} a call; nothing "
            "else paid."
        )
    if not names:
        return (
            "Nothing paid: the pipeline stays as it is, at "
            f"{units.seconds(tuning.baseline_seconds)} a call."
        )
    interval = (
        f"{bounds_word(tuning.rounds or FEWEST)} {units.ratio(tuning.speedup_low)} to "
        f"{units.ratio(tuning.speedup_high)}"
    )
    return (
        f"{units.ratio(tuning.speedup)} ({interval}): {units.seconds(tuning.baseline_seconds)} to "
        f"{units.seconds(tuning.tuned_seconds)} a call with {', '.join(names)}. The pictures: "
        f"{tuning.verdict}."
    )


_TONES = {"equivalent": "good", "different": "bad", "inconclusive": "warning"}


def _result(tuning: Tuning) -> Iterator[Block]:
    if tuning.reached is not None:
        yield Text(
            f"The target of {tuning.goal} was {'reached' if tuning.reached else 'not reached'}.",
            "good" if tuning.reached else "bad",
        )
    if tuning.evidence is not None:
        tone = _TONES.get(tuning.verdict or "", "warning")
        yield Text(f"Pictures: {verify_report.summary_of(tuning.evidence)}", tone)  # type: ignore[arg-type]
    approximate = any(rung.kept and rung.level == "approximate" for rung in tuning.ladder)
    if approximate and tuning.verdict != "equivalent":
        yield Text(
            "The recipe holds approximate fixes, so its pictures are not meant to be equal: "
            "look at them.",
            "warning",
        )
    spent, budget = units.seconds(tuning.spent_seconds), units.seconds(tuning.budget_seconds)
    again = " The run was interrupted and went on from what it had kept." if tuning.resumed else ""
    yield Text(f"It ended because {tuning.stopped}; {spent} of {budget} were used.{again}")
    if tuning.notes:
        yield Bullets(tuple(Text(f"Note: {note}.", "warning") for note in tuning.notes))


_LADDER = (
    Column("fix"),
    Column("level", wide=True),
    Column("on top", "ratio"),
    Column("predicted", "ratio"),
    Column("in all", "ratio"),
    Column("95 % interval", wide=True),
    Column("kept"),
    Column("why"),
)


def _kept(tuning: Tuning) -> Iterator[Section]:
    steps = ladder_steps(tuning)
    if not steps:
        return
    rows: list[list[Cell]] = [["as it was", None, None, tuning.baseline_seconds, None]]
    rows += [
        [_label(step.rung), step.measured, step.share, step.seconds, _range_of(step.rung)]
        for step in steps
    ]
    rows.append(["all together", None, tuning.speedup, tuning.tuned_seconds, _range(tuning)])
    columns = (
        Column("fix"),
        Column("on top", "ratio"),
        Column("of the whole", "ratio"),
        Column("a call takes", "seconds"),
        Column("95 % interval", wide=True),
    )
    table = Table(columns, rows_of(*rows), emphasis=frozenset({0, len(rows) - 1}))
    yield Section("Ladder", (table, Text(_ladder_note(tuning, steps))))


class LadderStep(NamedTuple):
    """A rung of the recipe: its speedup as it was measured, its share of the whole one, and what a
    call takes with it and those before."""

    rung: Rung
    measured: float
    share: float
    seconds: float


def ladder_steps(tuning: Tuning) -> tuple[LadderStep, ...]:
    """The rungs that are in the recipe; their shares multiply to the whole speedup.

    Each was measured against the plan so far, and the recipe against the baseline at the end; on a
    machine that moves, the product of the ones is not the other. The logarithm of what lies between
    is spread over the rungs in proportion to their own.
    """
    rungs = [(rung, gain) for rung in tuning.ladder if rung.kept and (gain := _gain(rung))]
    product = math.prod(gain for _, gain in rungs)
    if product <= 1.0 or tuning.speedup <= 1.0:
        return ()
    # the seconds end at the tuned ones: a ratio of medians, and the speedup is a median of ratios
    ratio = tuning.tuned_seconds / tuning.baseline_seconds
    steps, along = [], 0.0
    for rung, gain in rungs:
        along += math.log(gain) / math.log(product)
        share = tuning.speedup ** (math.log(gain) / math.log(product))
        steps.append(LadderStep(rung, gain, share, tuning.baseline_seconds * ratio**along))
    return tuple(steps)


_GAIN_IN_WORDS = re.compile(r"(?:slower: |does not pay beyond noise: )?(\d+\.\d+)x")


def _gain(rung: Rung) -> float | None:
    """The speedup over the plan so far; older files say it in words alone."""
    if rung.gain is not None:
        return rung.gain
    match = _GAIN_IN_WORDS.match(rung.why)
    return float(match[1]) if match else None


def _range_of(rung: Rung) -> str | None:
    if rung.gain_low is None or rung.gain_high is None:
        return None
    return f"{units.ratio(rung.gain_low)} to {units.ratio(rung.gain_high)}".replace(" ", "\xa0")


def _range(tuning: Tuning) -> str:
    words = f"{units.ratio(tuning.speedup_low)} to {units.ratio(tuning.speedup_high)}"
    return words.replace(" ", "\xa0")


def _ladder_note(tuning: Tuning, steps: Sequence[LadderStep]) -> str:
    product = math.prod(step.measured for step in steps)
    note = (
        "'On top': each fix was timed in turns with the plan of those above it, and the recipe in "
        "turns with the baseline at the end."
    )
    if abs(product / tuning.speedup - 1) < 0.005:
        return f"{note} The rows multiply to the whole."
    return (
        f"{note} The rows multiply to {units.ratio(product)}, the whole is "
        f"{units.ratio(tuning.speedup)}: the machine moved between the trials, and fixes help or "
        "hinder each other. 'Of the whole' spreads that over the rows in proportion to the "
        "logarithm of each, so that this column multiplies to the whole."
    )


def _trials(tuning: Tuning) -> Iterator[Block]:
    tried = [rung for rung in tuning.ladder if rung.observed is not None]
    rows = tuple(_rung(rung) for rung in tried)
    rows_in_bold = frozenset(i for i, rung in enumerate(tried) if rung.kept)
    if rows:
        yield Table(_LADDER, rows, emphasis=rows_in_bold)
        yield Text(
            "In the order of trying. 'On top' is the speedup over the plan so far, in the same "
            "turns, and decides; 'in all' is over the baseline, and moves with the machine from "
            "trial to trial. 'Predicted', also over the baseline, is Amdahl's sum over the ledger, "
            "with a prior for each fix."
        )
        yield Html(
            _chart(tried),
            caption="Each trial, from the first at the top: the whole call's speedup, predicted "
            "and observed.",
        )
    left: dict[str, list[str]] = {}
    for rung in tuning.ladder:
        if rung.observed is None and rung.peak_bytes is None:
            left.setdefault(rung.why.partition(" (")[0], []).append(_label(rung))
    weighed = [rung for rung in tuning.ladder if rung.observed is None and rung.peak_bytes]
    lines = [Text(f"{_label(rung)}: {rung.why}") for rung in weighed]
    lines += [Text(f"Not tried: {', '.join(names)} ({why})") for why, names in left.items()]
    if lines:
        yield Bullets(tuple(lines))


def _rung(rung: Rung) -> tuple[Cell, ...]:
    interval = None
    if rung.observed_low is not None and rung.observed_high is not None:
        interval = f"{units.ratio(rung.observed_low)} to {units.ratio(rung.observed_high)}".replace(
            " ", "\xa0"
        )
    return (
        _label(rung),
        rung.level,
        _gain(rung),
        rung.predicted,
        rung.observed,
        interval,
        "yes" if rung.kept else "no",
        rung.why,
    )


def _short(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value).removesuffix("Scheduler")


def _chart(tried: list[Rung]) -> Markup:
    observations = [(rung, rung.observed) for rung in tried if rung.observed is not None]
    with figure(7.2, 0.7 + 0.32 * max(1, len(observations))) as chart:
        axes = chart.add_subplot()
        for height, (rung, observed) in enumerate(reversed(observations)):
            colour = SERIES[0] if rung.kept else FAINT
            low, high = rung.observed_low or observed, rung.observed_high or observed
            axes.plot(
                [low, high], [height, height], color=colour, linewidth=3, solid_capstyle="round"
            )
            axes.plot(observed, height, "o", color=colour, markersize=6)
            if rung.predicted is not None:
                axes.plot(
                    rung.predicted, height, "|", color=INK, markersize=11, markeredgewidth=1.6
                )
        axes.axvline(1.0, color=FAINT, linewidth=1)
        axes.set_yticks(
            range(len(observations)), [_label(rung) for rung, _ in reversed(observations)]
        )
        axes.set_xlabel(
            "speedup over the baseline (dot: observed, bar: 95 %, tick: predicted; blue: kept)"
        )
        axes.grid(axis="x", color=FAINT, alpha=0.5)
        return svg(chart, "Predicted and observed speedup of every trial")


def _label(rung: Rung) -> str:
    settings = "+".join(_short(value) for value in rung.settings.values() if value != "")
    return f"{rung.fix} {settings}".strip()[:44]


def _memory(tuning: Tuning) -> Iterator[Section]:
    memory = tuning.memory
    if memory is None:
        return
    rows: list[list[Cell]] = [["the pipeline as it is", memory.as_it_is, "too much"]]
    if memory.start:
        rows.append(
            [" + ".join(choice.name for choice in memory.start), memory.baseline, "baseline"]
        )
    else:
        rows[0][-1] = "baseline"
    rows.append(["the recipe", memory.tuned, "fits"])
    columns = (Column("plan"), Column("takes at most", "bytes"), Column(""))
    words = (
        f"At most {units.size(memory.limit)} were allowed on {tuning.environment.device}. Counted "
        "are tensors, from putting a plan on until it has drawn its first pictures."
    )
    yield Section("Memory", (Table(columns, rows_of(*rows)), Text(words)))


def _before_and_after(tuning: Tuning) -> Iterator[Section]:
    if tuning.before is not None and tuning.after is not None:
        runs = len(tuning.after.runs) or 1
        note = Text(
            f"Means of the middle half of {runs} profiled calls each, in turns. The headline is "
            "timed apart, so the totals differ from it by what the machine did meanwhile."
        )
        bars = stacked_bars({"before": tuning.before.ledger, "after": tuning.after.ledger})
        bars = dataclasses.replace(bars, fallback="")
        yield Section("Before and after, by stage", (bars, _two_ledgers(tuning), note))


def _parts(tuning: Tuning) -> Iterator[Section]:
    for name, session in (("before", tuning.before), ("after", tuning.after)):
        if session is not None:
            yield Section(
                f"The ledger {name}, with its parts",
                (ledger_table(session),),
                console=False,
                folded=True,
            )


def _two_ledgers(tuning: Tuning) -> Table:
    assert tuning.before is not None
    assert tuning.after is not None
    after = {row.stage: row for row in tuning.after.ledger}
    stages = [row.stage for row in tuning.before.ledger] + [
        s for s in after if tuning.before.row(s) is None
    ]
    rows: list[tuple[Cell, ...]] = []
    for stage in stages:
        before, after_row = tuning.before.row(stage), after.get(stage)
        ratio = (
            before.seconds / after_row.seconds
            if before and after_row and after_row.seconds > 1e-6
            else None
        )
        rows.append(
            (
                stage,
                before.seconds if before else None,
                before.share if before else None,
                after_row.seconds if after_row else None,
                after_row.share if after_row else None,
                ratio,
            )
        )
    ratio = tuning.before.wall_seconds / tuning.after.wall_seconds
    rows.append(("total", tuning.before.wall_seconds, 1.0, tuning.after.wall_seconds, 1.0, ratio))
    columns = (
        Column("stage"),
        Column("before", "seconds"),
        Column("share", "share"),
        Column("after", "seconds"),
        Column("share", "share"),
        Column("speedup", "ratio"),
    )
    colours = (*map(colour_of, stages), 0)
    return Table(columns, tuple(rows), emphasis=frozenset({len(rows) - 1}), colours=colours)


def _sweep(tuning: Tuning) -> Iterator[Section]:
    if not tuning.sweep:
        return
    columns = (
        Column("solver"),
        Column("steps", "count"),
        Column("a picture", "seconds"),
        Column("FLIP"),
        Column("agreement"),
        Column("within the loss"),
        Column("front", wide=True),
        Column("chosen"),
    )
    rows = tuple(_point(point) for point in sorted(tuning.sweep, key=lambda p: p.seconds))
    note = Text(
        f"FLIP is the mean distance from the baseline's pictures of {tuning.workload.steps} "
        "steps; agreement is the judge's with the prompt, less the baseline's. The chosen setting "
        "is the fastest within the loss allowed."
    )
    chart = Html(
        _pareto(tuning), caption="Solver and steps: time against distance from the reference."
    )
    yield Section("Solver and steps", (Table(columns, rows), note, chart))


def _point(point: SweepPoint) -> tuple[Cell, ...]:
    agreement = None if point.agreement is None else f"{point.agreement:+.4f}"
    return (
        _short(point.scheduler),
        point.steps,
        point.seconds,
        f"{point.flip:.4f}",
        agreement,
        "yes" if point.within_budget else "no",
        "yes" if point.pareto else "",
        "yes" if point.chosen else "",
    )


def _pareto(tuning: Tuning) -> Markup:
    with figure(7.2, 3.4) as chart:
        axes = chart.add_subplot()
        for index, solver in enumerate(dict.fromkeys(point.scheduler for point in tuning.sweep)):
            mine = sorted(
                (p for p in tuning.sweep if p.scheduler == solver), key=lambda p: p.seconds
            )
            colour = SERIES[index % len(SERIES)]
            axes.plot(
                [p.seconds for p in mine],
                [p.flip for p in mine],
                color=colour,
                linewidth=1,
                marker="o",
                markersize=4,
                label=_short(solver),
            )
        front = sorted((p for p in tuning.sweep if p.pareto), key=lambda p: p.seconds)
        axes.plot(
            [p.seconds for p in front],
            [p.flip for p in front],
            color=INK,
            linewidth=0.8,
            linestyle="--",
            label="front",
        )
        for point in front:
            axes.annotate(
                str(point.steps),
                (point.seconds, point.flip),
                textcoords="offset points",
                xytext=(4, 4),
                color=INK,
                fontsize=8,
            )
        axes.set_xlabel("seconds a picture")
        axes.set_ylabel("FLIP from the reference")
        axes.grid(color=FAINT, alpha=0.5)
        axes.legend(loc="upper right", fontsize=8)
        return svg(chart, "Solver and steps: time against distance from the many-step reference")


def _pictures(slides: Sequence[Slide]) -> Iterator[Section]:
    if slides:
        text = Text(
            "The pairs that are farthest apart first. Drag, or focus one and use the arrow keys."
        )
        yield Section(
            "The pictures, before and after",
            (text, Html(render("slides.html", slides=slides))),
            console=False,
        )


def _verdict(tuning: Tuning) -> Iterator[Section]:
    if tuning.evidence is not None:
        for section in verify_report.report_of(tuning.evidence).sections:
            yield Section(
                f"Verdict: {section.title.lower()}", section.blocks, console=False, folded=True
            )


def _where(tuning: Tuning) -> Iterator[Block]:
    environment = tuning.recipe.environment
    rows: list[tuple[Cell, ...]] = [
        ("model", tuning.recipe.model),
        ("prompts' hash", tuning.prompts_hash),
        ("workload's hash", tuning.recipe.workload_hash),
    ]
    if environment is not None:
        rows += [
            ("processor", environment.processor),
            ("threads", str(environment.threads)),
            ("device", environment.device_name),
        ]
        rows += sorted(environment.versions.items()) + sorted(environment.settings.items())
    yield Table((Column("what"), Column("value")), tuple(rows))
