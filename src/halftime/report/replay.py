"""A Replay as a Report: how far apart, what differs, and which stages moved unlike the whole."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.base.stats import Interval
from halftime.records.replay import Replay
from halftime.report.comparison import comparison_of, fewest_runs, verdict
from halftime.report.model import Block, Bullets, Column, Report, Section, Table, Text, rows_of

APART = 1.25  # a stage whose ratio is this far from the whole call's has its own cause
WORTH_SAYING = 0.02  # of the call
_TOGETHER = (
    f"None that takes {WORTH_SAYING:.0%} of the call or more is {APART:g} times as far "
    "off as the whole."
)


def report_of(replay: Replay) -> Report:
    """The two sessions by stage, and between them what explains the difference."""
    comparison = comparison_of(replay.then, replay.now)
    by_stage, *details = comparison.sections
    return Report(
        title=f"{replay.now.pipeline} on {replay.now.environment.place()}: "
        f"{units.seconds(replay.then.wall_seconds)} there, "
        f"{units.seconds(replay.now.wall_seconds)} here",
        summary=_summary(replay),
        sections=(
            by_stage,
            Section("What differs", tuple(_differences(replay))),
            Section("Which stages moved otherwise", (_stages(replay),)),
            *details,
        ),
    )


def _summary(replay: Replay) -> str:
    sentence = verdict(
        Interval(replay.speedup, replay.low, replay.high), fewest_runs(replay.then, replay.now)
    )
    if not replay.differences:
        return (
            f"{sentence} Workload, machine and software are the same, so what remains is "
            "noise, heat or other load."
        )
    return f"{sentence} The weightiest difference: {replay.differences[0].meaning}."


def _differences(replay: Replay) -> Iterator[Block]:
    if not replay.differences:
        yield Text("Nothing that is known to change speed.", "good")
        return
    cells = [
        (difference.field, difference.then, difference.now) for difference in replay.differences
    ]
    yield Table((Column("field"), Column("there"), Column("here")), rows_of(*cells))
    meanings = dict.fromkeys(
        difference.meaning for difference in replay.differences if difference.meaning
    )
    yield Bullets(tuple(Text(f"{words[0].upper()}{words[1:]}.") for words in meanings))


def _stages(replay: Replay) -> Block:
    items = []
    for stage, ratio in replay.stages.items():
        row = replay.now.row(stage)
        apart = ratio / replay.speedup
        if row and row.share >= WORTH_SAYING and not 1 / APART <= apart <= APART:
            word = "gained more" if apart > 1 else "lost more"
            items.append(
                Text(
                    f"{stage}: {units.ratio(ratio)}, where the whole call is "
                    f"{units.ratio(replay.speedup)}; it {word}."
                )
            )
    return Bullets(tuple(items)) if items else Text(_TOGETHER)
