"""A Gate as a Report, as GitHub annotations and as JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from halftime.base import units
from halftime.records.gate import Gate, GateCounter, StageShift
from halftime.report.gate_history import history_section
from halftime.report.github import annotation
from halftime.report.model import (
    Block,
    Bullets,
    Cell,
    Column,
    Report,
    Section,
    Table,
    Text,
    Tone,
    printable,
)

_TONES: dict[str, Tone] = {
    "pass": "good",
    "faster": "good",
    "accepted": "warning",
    "slower": "bad",
    "worse": "bad",
    "undecided": "warning",
}
_SUMMARIES = {
    "pass": "Pass",
    "faster": "Pass, and faster",
    "accepted": "Accepted",
    "slower": "Slower",
    "worse": "Worse",
    "undecided": "Undecided",
}
_MOST_DIFFERENCES = 12  # on the screen; the page has all


def report_of(gate: Gate) -> Report:
    """The verdict and why, the stages, the counters, what differs, the pictures."""
    return Report(
        title=f"{gate.candidate.label} against {gate.base.label}: {_verdict(gate)}",
        summary=summary_of(gate),
        sections=tuple(section for section in _sections(gate) if section.blocks),
    )


def _verdict(gate: Gate) -> str:
    """'slower, accepted' where it was; else the verdict."""
    if gate.verdict != "accepted":
        return gate.verdict
    return f"{'slower' if gate.speed == 'slower' else 'worse'}, accepted"


def _sections(gate: Gate) -> Iterator[Section]:
    reasons = tuple(_reasons(gate))
    yield Section("Why", (Bullets(reasons),) if reasons else ())
    yield Section("By stage", tuple(_stages(gate)))
    yield Section("Counted", (_counters(gate),) if gate.counters else ())
    yield Section("What differs", tuple(_differences(gate, _MOST_DIFFERENCES)))
    if len(gate.differences) > _MOST_DIFFERENCES:
        rows = tuple(_differences(gate, len(gate.differences)))
        yield Section("Everything that differs", rows, console=False, folded=True)
    yield Section("Pictures", tuple(_pictures(gate)))
    yield history_section(gate.history)
    yield Section("How far to trust this", (Bullets(tuple(Text(t) for t in _trust(gate))),))


def summary_of(gate: Gate) -> str:
    """The verdict in a sentence."""
    word = _SUMMARIES[gate.verdict]
    speed = _speed(gate)
    if gate.verdict == "undecided":
        return f"{word}{speed}. What would decide: {gate.would_decide}."
    if gate.verdict == "pass" and gate.speed == "not measured":
        if gate.pictures is None:
            return "Pass by counters; time was not measured, and pictures were not compared."
        return "Pass by counters and pictures; time was not measured."
    if gate.verdict == "accepted":
        why = "; ".join(line.reason for line in gate.accepted)
        return f"{_verdict(gate).capitalize()}: {why}{speed}."
    reason = f": {gate.reasons[0]}" if gate.reasons else ""
    if gate.verdict == "worse":
        reason = f": {objections_of(gate)[0]}"
    return f"{word}{speed}{reason}."


def objections_of(gate: Gate) -> tuple[str, ...]:
    """The reasons that speak against the candidate; a file of before did not tell them apart."""
    return gate.objections or gate.reasons or (gate.verdict,)


def _speed(gate: Gate) -> str:
    """' by 2.1 % [1.2, 3.3]', or '' where nothing was timed."""
    if gate.ratio is None:
        return ""
    return f", {_percent(gate.ratio)} % {_bounds(gate)} of {units.seconds(gate.wall_seconds)}"


def _bounds(gate: Gate) -> str:
    if gate.low is None or gate.high is None:
        return "[not bounded yet]"
    return f"[{_percent(gate.low)}, {_percent(gate.high)}]"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2g}"


def _reasons(gate: Gate) -> Iterator[Text]:
    for reason in gate.reasons:
        yield Text(reason, "bad" if reason in gate.objections else _tone_of_others(gate))
    if gate.would_decide and gate.verdict != "undecided":  # or it is in the sentence on top
        yield Text(f"undecided; what would decide: {gate.would_decide}", "warning")


def _tone_of_others(gate: Gate) -> Tone:
    """Of a reason that is no objection."""
    return "plain" if gate.objections else _TONES[gate.verdict]


def _stages(gate: Gate) -> Iterator[Block]:
    if not gate.stages:
        return
    columns = (
        Column("stage"),
        Column("base", "seconds"),
        Column("now", "seconds"),
        Column("difference"),
        Column("95 % within"),
        Column(""),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            stage.stage,
            stage.base_seconds,
            stage.candidate_seconds,
            _signed(stage.difference_seconds),
            _interval(stage),
            _moved(stage),
        )
        for stage in gate.stages
    ]
    moved = {index for index, stage in enumerate(gate.stages) if stage.moved}
    yield Table(columns, tuple(rows), emphasis=frozenset(moved))


def _signed(seconds: float) -> str:
    return f"{'+' if seconds > 0 else ''}{units.seconds(seconds)}"


def _interval(stage: StageShift) -> str:
    low, high = stage.low_seconds, stage.high_seconds
    return (
        "not bounded yet" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
    )


def _moved(stage: StageShift) -> str:
    if not stage.moved:
        return ""
    return "slower" if stage.difference_seconds > 0 else "faster"


def _counters(gate: Gate) -> Table:
    columns = (
        Column("counter"),
        Column("base"),
        Column("now"),
        Column(""),
        Column("where", wide=True),
    )
    rows: list[tuple[Cell, ...]] = [_counter_cells(counter) for counter in gate.counters]
    worse = {i for i, counter in enumerate(gate.counters) if counter.worse and not counter.accepted}
    return Table(columns, tuple(rows), emphasis=frozenset(worse))


def _counter_cells(counter: GateCounter) -> tuple[Cell, ...]:
    show = units.FORMATS[counter.unit]
    where = counter.skipped or "; ".join(counter.details[:3])
    base, now = counter.base, counter.candidate
    return counter.name, show(base), show(now), _counter_word(counter), where


def _counter_word(counter: GateCounter) -> str:
    if counter.base is None or counter.candidate is None:
        return "not counted"
    if counter.base == counter.candidate:
        return "same"
    more = "more" if counter.candidate > counter.base else "fewer"
    if counter.accepted:
        return f"{more}, accepted"
    return f"{more}, worse" if counter.worse else more


def _differences(gate: Gate, most: int) -> Iterator[Block]:
    if not gate.differences:
        yield Text("Nothing that is known to change speed: the code itself, or nothing.")
        return
    rows: list[tuple[Cell, ...]] = [
        (difference.name, difference.base, difference.candidate)
        for difference in gate.differences[:most]
    ]
    yield Table((Column("the likely cause first"), Column("base"), Column("now")), tuple(rows))
    if len(gate.differences) > most:
        yield Text(f"and {len(gate.differences) - most} more, in the page and the JSON")


def _pictures(gate: Gate) -> Iterator[Block]:
    if gate.pictures is None:
        return
    tones: dict[str, Tone] = {"equivalent": "good", "different": "bad", "inconclusive": "warning"}
    verdict = gate.pictures.verdict
    reasons = "; ".join(gate.pictures.reasons[:3])
    yield Text(
        f"{verdict} over {gate.pictures.pairs} pairs{f': {reasons}' if reasons else ''}",
        tones[verdict],
    )


def _trust(gate: Gate) -> Iterator[str]:
    if gate.cohorts:
        processes = [process for cohort in gate.cohorts for process in cohort.processes]
        calls = sum(len(process.wall_seconds) for process in processes)
        yield (
            f"{units.count(calls)} calls of {len(processes)} processes in {_cohorts(gate)}, in "
            f"turns, in {units.seconds(gate.spent_seconds)} of a budget of "
            f"{units.seconds(gate.budget_seconds)}. The process is the unit, and the bounds hold "
            f"whenever the run ended: each is wrong in at most {100 * gate.alpha:g} % of runs."
        )
    if gate.counters:
        yield (
            "Counters are those of one short call; operations, FLOPs and bytes are worse from "
            f"{100 * gate.margin:g} % more on, waits and compilations from one more."
        )
    yield from gate.notes


def _cohorts(gate: Gate) -> str:
    return "1 cohort" if len(gate.cohorts) == 1 else f"{len(gate.cohorts)} cohorts"


# ---- for CI


def github_annotations(gate: Gate) -> str:
    """GitHub's workflow commands: an error for each reason against, or a notice of the verdict."""
    title = "halftime gate"
    if gate.verdict in ("slower", "worse"):
        return "\n".join(annotation("error", title, reason) for reason in objections_of(gate))
    level = "warning" if gate.verdict in ("undecided", "accepted") else "notice"
    return annotation(level, title, summary_of(gate))


def junit(gate: Gate) -> bytes:
    """JUnit XML: a test case for speed, one for each counter, and one for the pictures."""
    suite = ElementTree.Element("testsuite", name="halftime gate", time=f"{gate.spent_seconds:.3f}")
    for name, failure, skipped in _cases(gate):
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(gate.model or "halftime"), name=_xml(name), time="0"
        )
        if failure:
            ElementTree.SubElement(case, "failure", message=_xml(failure)).text = _xml(failure)
        elif skipped:
            ElementTree.SubElement(case, "skipped", message=_xml(skipped))
    kinds = {"tests": "testcase", "failures": "failure", "skipped": "skipped"}
    for attribute, tag in kinds.items():
        suite.set(attribute, str(len(list(suite.iter(tag)))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _cases(gate: Gate) -> Iterator[tuple[str, str, str]]:
    """Name, why it failed, why it was skipped."""
    is_slower = gate.speed == "slower" and gate.verdict == "slower"
    slower = gate.reasons[0] if is_slower and gate.reasons else ""
    undecided = gate.would_decide or "undecided"
    skipped = {"undecided": f"undecided: {undecided}", "not measured": "not measured"}
    yield "speed", f"{slower}{_speed(gate)}" if slower else "", skipped.get(gate.speed, "")
    for counter in gate.counters:
        _, base, now, *_ = _counter_cells(counter)
        worse = counter.worse and not counter.accepted
        yield counter.name, f"{base} before, {now} now" if worse else "", counter.skipped
    if gate.pictures is not None:
        reasons = "; ".join(gate.pictures.reasons) or gate.pictures.verdict
        accepted = any(line.what == "pictures" for line in gate.accepted)
        different = gate.pictures.verdict == "different" and not accepted
        unsure = gate.pictures.verdict == "inconclusive"
        yield "pictures", reasons if different else "", reasons if unsure else ""


_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def _xml(text: str) -> str:
    """What XML allows of a text."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text))
