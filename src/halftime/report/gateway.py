"""A GatewayResult as a Report: the sentence, the two distributions, the loads, what was found."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from halftime.base import units
from halftime.records import Finding
from halftime.records.gateway import GRID, Added, GatewayPlan, GatewayResult, Generator, Load, Truth
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
    Tone,
)


def report_of(result: GatewayResult) -> Report:
    """The whole report of one measurement."""
    sections = [
        Section("Verdict", tuple(_verdict(result))),
        Section("Added by load", (_loads(result), *_figures(result))),
        *_findings(result),
        *_truth(result),
        *_split(result),
        *_streams(result),
        *_jobs(result),
        Section("The instrument", tuple(_instrument(result))),
    ]
    title = (
        f"{result.through} in front of {result.direct}"
        if result.through
        else f"{result.direct} by itself"
    )
    return Report(title=f"Gateway: {title}", summary=_summary(result), sections=tuple(sections))


def _summary(result: GatewayResult) -> str:
    reasons = [f"{reason}. " for reason in _reasons(result)]
    quietest = next((load for load in result.rates if not load.saturated), result.rates[0])
    return "".join(reasons) + _times(result, quietest)


def _reasons(result: GatewayResult) -> list[str]:
    """Why the gateway did not do its job, and why the measurement ended early."""
    reasons = [result.failing, *result.broken, result.stopped]
    return list(dict.fromkeys(reason for reason in reasons if reason))


def _times(result: GatewayResult, load: Load) -> str:
    best = load.best
    if best is None and result.through:
        return "What the gateway adds is not known: no request was answered both ways."
    if best is None:
        direct = load.direct
        return (
            f"One request takes {units.seconds(direct.p50 if direct else None)} (p50); no "
            "gateway was measured."
        )
    words = (
        f"{_subject(best, result)} {units.seconds(best.p50)} at p50 (95 % interval "
        f"{units.seconds(best.low)} to {units.seconds(best.high)}), {units.seconds(best.p95)} at "
        f"p95, {_manner(load)}."
    )
    if result.payload.stream and load.ttft_added is not None:
        words += f" The first chunk comes {units.seconds(load.ttft_added)} later."
    return words + (f" That is: {result.session.sentence}." if result.session else "")


def _subject(added: Added, result: GatewayResult) -> str:
    if any(finding.id == "faster-than-direct" for finding in result.findings):
        return "Less than nothing, as no proxy can: the gateway adds"
    return "The gateway adds" if added.low > 0 else "Within noise: the gateway adds"


def _manner(load: Load) -> str:
    name = _name(load)
    return name if load.rate is None else f"at {name}"


def _verdict(result: GatewayResult) -> Iterator[Block]:
    for reason in dict.fromkeys(filter(None, (*result.broken, result.stopped))):
        yield Text(f"{reason}.", "bad")
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
    elif any(load.rate and load.unclear and not load.failing for load in result.rates):
        yield Text("Whether it holds a rate is not known: see the doubts.", "warning")
    elif any(load.rate for load in result.rates):
        yield Text("Holds none of the rates asked for.", "bad")
    if result.knee:
        yield Text(f"The knee: it holds {result.knee:.3g} requests/s, and hardly more.", "good")
    if result.budget is not None:
        sentence = f"Budget of {units.seconds(result.budget)}: {_budget_words(result)}."
        tones: dict[bool | None, Tone] = {True: "good", False: "bad", None: "warning"}
        yield Text(sentence, tones[result.within_budget])
    yield Text(
        f"Sent: {_payload(result)}."
        + (f" Overhead known from {_how(result)}." if result.through else "")
    )


def _budget_words(result: GatewayResult) -> str:
    if result.within_budget:
        return "kept"
    if result.within_budget is None and result.stopped:
        return "not decided, as the measurement ended before all of its loads"
    if result.within_budget is None:
        return "not decided, as the interval of what is added holds it; more --requests narrow it"
    if result.failing:
        return "not kept, since requests failed"
    return "not kept, since the gateway did not do its job" if result.broken else "exceeded"


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
    if result.http2:
        stream += f", HTTP/2 {result.http2}" + (" ways" if result.http2 == "both" else "")
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
    Column("calls/request", "ratio", wide=True),
    Column("good", "share", wide=True),
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
    added, log, good = load.best, load.upstream, load.goodput
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
        log.calls_per_request if log and abs(log.calls_per_request - 1) > 0.005 else None,
        (good.direct if good.through is None else good.through) if good else None,
        load.errors or None,
        _state(load),
    )


def _state(load: Load) -> str:
    states = (
        ("saturated", load.saturated),
        ("failing", load.failing),
        ("wrong answers", bool(load.wrong)),
        ("ended early", bool(load.cut)),
        ("not clear", load.unclear),
    )
    return ", ".join(word for word, true in states if true) or ("held" if load.rate else "")


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


def _streams(result: GatewayResult) -> Iterator[Section]:
    rows = [
        (
            f"{_name(load)}, {arm}",
            first.p50,
            times.token_gap.p50,
            times.token_gap.p95,
            times.longest_gap.p95,
            times.tokens_per_second,
        )
        for load in result.rates
        for arm, times, first in (
            ("direct", load.stream_direct, load.ttft_direct),
            ("through", load.stream_through, load.ttft_through),
        )
        if times and first
    ]
    columns = (
        Column("streams"),
        Column("first chunk", "seconds"),
        Column("between tokens", "seconds"),
        Column("p95", "seconds"),
        Column("longest gap, p95", "seconds"),
        Column("tokens/s", "count"),
    )
    if rows:
        yield Section("Streams (medians)", (Table(columns, tuple(rows)),), console=False)


def _jobs(result: GatewayResult) -> Iterator[Section]:
    rows = [
        (f"{_name(load)}, {arm}", times.submit, times.queue, times.run)
        for load in result.rates
        for arm, times in (("direct", load.jobs_direct), ("through", load.jobs_through))
        if times
    ]
    columns = (
        Column("jobs"),
        Column("until accepted", "seconds"),
        Column("queue", "seconds"),
        Column("run", "seconds"),
    )
    if rows:
        yield Section("Jobs that were followed (medians)", (Table(columns, tuple(rows)),))


def _instrument(result: GatewayResult) -> Iterator[Block]:
    yield Text("Generator: " + ", ".join(_generator_words(result.generator)) + ".")
    yield Text(f"Sent {units.count(result.requests)} requests in all.")
    background = ", ".join(f"{_name(load)} {load.background_cores:.2f}" for load in result.rates)
    yield Text(f"Cores kept busy by other processes: {background}.")
    if result.doubts:
        yield Bullets(tuple(Text(f"Doubt: {doubt}", "warning") for doubt in result.doubts))


def _generator_words(generator: Generator | None) -> Iterator[str]:
    if generator is None:
        yield "its own floor was not measured, since the run was interrupted"
        return
    p50, p99 = units.seconds(generator.floor.p50), units.seconds(generator.floor.p99)
    yield f"floor {p50} p50 and {p99} p99 against its own mock"
    yield f"at most {generator.max_rate:,.0f} requests/s"
    if generator.headroom is not None:
        yield f"{generator.headroom:.1f} times the highest rate asked for"
    if generator.send_lag_p99 is not None:
        yield f"sends at most {units.seconds(generator.send_lag_p99)} late (p99)"


def plan_report_of(plan: GatewayPlan) -> Report:
    """What a measurement would send."""
    rows = tuple((load.name, load.requests, load.seconds) for load in plan.loads)
    columns = (Column("load"), Column("requests", "count"), Column("at most", "seconds"))
    total = f"{units.count(plan.requests)} requests" + ("" if plan.bounded else " and more")
    words = [f"{total}, {units.size(plan.request_bytes)} each"]
    if plan.input_tokens is not None:
        words.append(
            f"about {units.count(plan.input_tokens)} tokens in, at most "
            f"{units.count(plan.output_tokens)} out"
        )
    if plan.dollars is not None:
        words.append(f"about ${plan.dollars:,.2f}")
    blocks: list[Block] = [Table(columns, rows)]
    if not plan.bounded:
        blocks.append(
            Text(
                "A load without a number sends as fast as it is answered; --max-requests bounds "
                "the whole.",
                "warning",
            )
        )
    return Report(
        title=f"Gateway: what would be sent to {plan.through or plan.direct}",
        summary=f"Nothing was sent. It would be {'; '.join(words)}.",
        sections=(Section("Loads, of both ways", tuple(blocks)),),
    )
