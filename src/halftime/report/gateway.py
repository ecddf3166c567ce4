"""A GatewayResult as a Report: the sentence, the two distributions, the loads, what was found."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from halftime.base import units
from halftime.records import Finding
from halftime.records.gateway import GRID, Added, GatewayResult, Load, Truth
from halftime.report.charts import FAINT, SERIES, figure, svg
from halftime.report.model import (
    Block,
    Bullets,
    Cell,
    Column,
    Entries,
    Entry,
    Html,
    Report,
    Section,
    Table,
    Text,
)


def report_of(result: GatewayResult) -> Report:
    """The whole report of one measurement."""
    sections = [
        Section("Verdict", tuple(_verdict(result))),
        Section("Added by load", (_loads(result), *_figures(result))),
        *_findings(result),
        *_truth(result),
        *_split(result),
        Section("The instrument", tuple(_instrument(result))),
    ]
    title = (
        f"{result.through} in front of {result.direct}"
        if result.through
        else f"{result.direct} by itself"
    )
    return Report(title=f"Gateway: {title}", summary=_summary(result), sections=tuple(sections))


def _summary(result: GatewayResult) -> str:
    failures = f"{result.failing}. " if result.failing else ""
    quietest = next((load for load in result.rates if not load.saturated), result.rates[0])
    return failures + _times(result, quietest)


def _times(result: GatewayResult, load: Load) -> str:
    if load.added is None and result.through:
        return "What the gateway adds is not known: no request was answered both ways."
    if load.added is None:
        direct = load.direct
        return (
            f"One request takes {units.seconds(direct.p50 if direct else None)} (p50); no "
            "gateway was measured."
        )
    subject = "The gateway adds" if load.added.low > 0 else "Within noise: the gateway adds"
    words = (
        f"{subject} {units.seconds(load.added.p50)} at p50 (95 % interval "
        f"{units.seconds(load.added.low)} to "
        f"{units.seconds(load.added.high)}), {units.seconds(load.added.p95)} at p95, one "
        "request at a time."
    )
    if result.payload.stream and load.ttft_added is not None:
        words += f" The first chunk comes {units.seconds(load.ttft_added)} later."
    return words + (f" That is: {result.session.sentence}." if result.session else "")


def _verdict(result: GatewayResult) -> Iterator[Block]:
    if result.failing:
        at = "; ".join(_name(load) for load in result.rates if load.failing)
        yield Text(f"{result.failing}: {at}.", "bad")
    broken = [load for load in result.rates if load.saturated]
    if broken and result.capacity:
        at = ", ".join(f"{load.rate:g}/s {load.mode}" for load in broken)
        yield Text(
            f"Saturated at {at}: it completes {result.capacity:.0f} requests/s, whatever is "
            "offered.",
            "bad",
        )
    if result.held_rate:
        yield Text(
            f"Holds {result.held_rate:g} requests/s, the highest rate asked for that it held.",
            "good",
        )
    elif any(load.rate for load in result.rates):
        yield Text("Holds none of the rates asked for.", "bad")
    if result.budget is not None:
        sentence = f"Budget of {units.seconds(result.budget)}: {_budget_words(result)}."
        yield Text(sentence, "good" if result.within_budget else "bad")
    yield Text(
        f"Sent: {_payload(result)}."
        + (f" Overhead known from {_how(result)}." if result.through else "")
    )


def _budget_words(result: GatewayResult) -> str:
    if result.within_budget:
        return "kept"
    return "not kept, since requests failed" if result.failing else "exceeded"


def _how(result: GatewayResult) -> str:
    exact = result.method == "mock log"
    return (
        "the mock's log, per request and exact"
        if exact
        else "paired differences, since the upstream is not a mock"
    )


def _payload(result: GatewayResult) -> str:
    sent = result.payload
    stream = ", streamed" if sent.stream else ""
    return (
        f"{sent.kind} ({result.target}), {units.size(sent.request_bytes)} a request, "
        f"{units.size(sent.response_bytes)} an answer{stream}"
    )


def _name(load: Load) -> str:
    if load.mode == "closed":
        return f"closed loop, {load.concurrency} at once"
    return f"{load.rate:g}/s {load.mode}" if load.rate else "one at a time"


_COLUMNS = (
    Column("load"),
    Column("direct p50", "seconds"),
    Column("through p50", "seconds"),
    Column("added p50", "seconds"),
    Column("95 % interval", wide=True),
    Column("p95", "seconds"),
    Column("p99", "seconds"),
    Column("first chunk", "seconds"),
    Column("CPU/request", "seconds", wide=True),
    Column("errors", "count", wide=True),
    Column("verdict"),
)


def _loads(result: GatewayResult) -> Table:
    rows = tuple(_row(load, result.payload.stream) for load in result.rates)
    indices = [i for i in range(len(_COLUMNS)) if any(row[i] not in (None, "") for row in rows)]
    return Table(
        tuple(_COLUMNS[i] for i in indices), tuple(tuple(row[i] for i in indices) for row in rows)
    )


def _row(load: Load, stream: bool) -> tuple[Cell, ...]:
    added = load.added
    return (
        _name(load),
        load.direct.p50 if load.direct else None,
        load.through.p50 if load.through else None,
        added.p50 if added else None,
        _interval(added),
        added.p95 if added else None,
        added.p99 if added else None,
        load.ttft_added if stream else None,
        load.cpu_per_request,
        load.errors or None,
        _state(load),
    )


def _state(load: Load) -> str:
    broken = [
        word for word, true in (("saturated", load.saturated), ("failing", load.failing)) if true
    ]
    return ", ".join(broken) or ("held" if load.rate else "")


def _interval(added: Added | None) -> str | None:
    # Not broken over lines: it is one thing.
    return (
        f"{units.seconds(added.low)} to {units.seconds(added.high)}".replace(" ", "\xa0")
        if added
        else None
    )


def _figures(result: GatewayResult) -> Iterator[Block]:
    for load in result.rates:
        if load.curve_direct:
            yield Html(
                _curves(load), caption=f"Share of requests answered within a time: {_name(load)}."
            )


def _curves(load: Load) -> Markup:
    from matplotlib.ticker import LogLocator, NullLocator

    with figure(5.6, 2.4) as chart:
        axes = chart.add_subplot()
        arms = (
            ("direct", load.curve_direct, SERIES[0]),
            ("through", load.curve_through, SERIES[1]),
        )
        for name, curve, colour in arms:
            if curve:
                milliseconds = [1e3 * max(value, 1e-6) for value in curve.values]
                axes.step(milliseconds, GRID, color=colour, where="post")
                axes.plot([], [], color=colour, label=f"{name} ({curve.count:,} requests)")
        ends = [
            value for _, curve, _ in arms if curve for value in (curve.values[0], curve.values[-1])
        ]
        # else a logarithmic axis would have hardly a label
        if max(ends) > 3 * min(ends):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("latency from the intended send, ms")
        axes.set_ylim(0, 1.01)
        axes.grid(color=FAINT, alpha=0.5)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return svg(chart, f"Cumulative distribution of latency, direct and through, {_name(load)}")


def _findings(result: GatewayResult) -> Iterator[Section]:
    if result.through:
        blocks: Block = Text("Nothing worth fixing was found.", "good")
        if result.findings:
            blocks = Entries(tuple(_entry(finding) for finding in result.findings))
        yield Section("Findings", (blocks,))


def _entry(finding: Finding) -> Entry:
    facts = f"costs {units.seconds(finding.seconds)}" if finding.seconds is not None else ""
    return Entry(finding.id, facts, finding.message[:1].upper() + finding.message[1:], "warning")


def _truth(result: GatewayResult) -> Iterator[Section]:
    truths = [(load, load.truth) for load in result.rates if load.truth]
    if not truths:
        return
    columns = (
        Column("load"),
        Column("added p50", "seconds"),
        Column("request path", "seconds"),
        Column("response path", "seconds"),
        Column("first chunk", "seconds"),
        Column("direct floor", "seconds"),
        Column("header says", "seconds"),
    )
    rows = tuple(_truth_row(load, truth) for load, truth in truths)
    indices = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    table = Table(
        tuple(columns[i] for i in indices), tuple(tuple(row[i] for i in indices) for row in rows)
    )
    note = Text(
        "Per request, from the mock's log: (client receive - send) - (mock send - receive), "
        "less direct's."
    )
    yield Section("Where it is added", (table, note))


def _truth_row(load: Load, truth: Truth) -> tuple[Cell, ...]:
    first = truth.first_chunk_path if load.gap_direct else None
    return (
        _name(load),
        truth.added.p50,
        truth.request_path,
        truth.response_path,
        first,
        truth.floor.p50,
        load.header_reported,
    )


def _split(result: GatewayResult) -> Iterator[Section]:
    rows: list[tuple[Cell, ...]] = []
    for load in result.rates:
        for arm, parts, gap in (
            ("direct", load.split_direct, load.gap_direct),
            ("through", load.split_through, load.gap_through),
        ):
            if parts:
                between = gap.p50 if gap and result.payload.stream else None
                rows.append(
                    (
                        f"{_name(load)}, {arm}",
                        parts.connect,
                        parts.tls,
                        parts.wait,
                        parts.transfer,
                        between,
                    )
                )
    columns = (
        Column("request"),
        Column("connect", "seconds"),
        Column("TLS", "seconds"),
        Column("wait", "seconds"),
        Column("transfer", "seconds"),
        Column("between chunks", "seconds"),
    )
    indices = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    table = Table(
        tuple(columns[i] for i in indices), tuple(tuple(row[i] for i in indices) for row in rows)
    )
    yield Section("Parts of one request (medians)", (table,), console=False)


def _instrument(result: GatewayResult) -> Iterator[Block]:
    generator = result.generator
    p50, p99 = units.seconds(generator.floor.p50), units.seconds(generator.floor.p99)
    words = [
        f"floor {p50} p50 and {p99} p99 against its own mock",
        f"at most {generator.max_rate:,.0f} requests/s",
    ]
    if generator.headroom is not None:
        words.append(f"{generator.headroom:.1f} times the highest rate asked for")
    if generator.send_lag_p99 is not None:
        words.append(f"sends at most {units.seconds(generator.send_lag_p99)} late (p99)")
    yield Text("Generator: " + ", ".join(words) + ".")
    background = ", ".join(f"{_name(load)} {load.background_cores:.2f}" for load in result.rates)
    yield Text(f"Cores kept busy by other processes: {background}.")
    if result.doubts:
        yield Bullets(tuple(Text(f"Doubt: {doubt}", "warning") for doubt in result.doubts))
