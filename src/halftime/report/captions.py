"""A CaptionsResult as a Report: the certificate, spend against quality, and the mistakes."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from halftime.base import units
from halftime.records.captions import CaptionsResult, ChainResult, LogPower, Policy
from halftime.report.charts import FAINT, INK, SERIES, figure, svg
from halftime.report.model import Block, Cell, Column, Html, Report, Section, Table, Text
from halftime.report.templates import render


def report_of(result: CaptionsResult) -> Report:
    """The whole report of one calibration."""
    sections = [
        Section("Certificate", tuple(_certificate(result))),
        Section("Spend against quality", tuple(_policies(result))),
        Section("By kind of request", (_slices(result),)),
        *_mistakes(result),
        Section("How the threshold was found", tuple(_steps(result))),
    ]
    return Report(
        title="Captions: which requests need the large model?",
        summary=_summary(result),
        sections=tuple(sections),
    )


def _summary(result: CaptionsResult) -> str:
    if not result.certified:
        return (
            "Not certified: all requests go to the large model. "
            f"{result.why[:1].upper() + result.why[1:]}."
        )
    oracle = (
        f", {units.share(result.share_of_oracle)} of what an oracle would save"
        if result.share_of_oracle
        else ""
    )
    return (
        f"Sending {units.share(result.small_share)} of the requests to the small model saves "
        f"{units.share(result.savings)} of the spend (95 % interval "
        f"{units.share(result.savings_low)} to "
        f"{units.share(result.savings_high)}){oracle}; {_change(result.quality_loss)}."
    )


def power_text(power: LogPower, alpha: float) -> str:
    """What a log can certify, in a sentence: said before anything is learned from it."""
    if power.why_few:
        return (
            f"This log cannot certify {units.share(alpha)}: {power.why_few}. That makes "
            f"{power.draws:,} independent requests for the certificate, and {power.needed:,} must "
            "go to the small model without an error."
        )
    words = ", ".join(
        f"{share} of them go small with at most {count} unacceptable"
        for share, count in power.most_errors.items()
    )
    return (
        f"{power.draws:,} independent requests of this log will prove the certificate. They prove "
        f"{units.share(alpha)} where {words}."
    )


def _change(loss: float) -> str:
    if loss > 0:
        return f"mean quality falls by {loss:.4f}"
    return f"mean quality does not fall ({-loss:+.4f})"


def _certificate(result: CaptionsResult) -> Iterator[Block]:
    yield Text(result.why[:1].upper() + result.why[1:] + ".", "good" if result.certified else "bad")
    if result.error is not None:
        yield Text(
            f"On {result.requests['test']:,} requests that chose nothing: "
            f"{units.share(result.error)} of the small "
            f"model's answers were unacceptable (at most {units.share(result.error_high)} with "
            "95 % confidence)."
        )
    if result.power is not None:
        yield Text(power_text(result.power, result.alpha))
    yield from _families(result)
    yield Text(_arithmetic(result))
    if result.needed:
        rows = tuple((rate, float(count)) for rate, count in result.needed.items())
        columns = (Column("unacceptable share"), Column("requests needed", "count"))
        yield Table(columns, rows, title="Small answers that must be seen for this certificate")


def _families(result: CaptionsResult) -> Iterator[Block]:
    counts = result.families
    if counts is None:
        return
    text = (
        f"The promise is per request. The log has {counts.families:,} different pictures; the "
        f"largest family of near duplicates has {counts.largest:,} requests "
        f"({units.share(counts.largest_share)})."
    )
    if counts.recurring:
        text += (
            f" {counts.recurring} families come all through the log, with "
            f"{units.share(counts.recurring_share)} of the requests: the certificate takes them to "
            "come again, as a fixed camera's pictures do. It also holds for the other requests "
            "alone."
        )
    yield Text(text)


def _arithmetic(result: CaptionsResult) -> str:
    share, ratio, cascade = result.small_share, result.cost_ratio, result.mode == "cascade"
    product = (
        f"The arithmetic: savings = f (1 - r) = {share:.3f} x (1 - {ratio:.3f}) = "
        f"{share * (1 - ratio):.3f}"
    )
    if not result.certified:
        return f"{product}; where nothing is looked at, nothing is paid for looking."
    if result.router_cost is not None:
        less = (
            "less what the router and the judge cost" if cascade else "less what the router costs"
        )
        return f"{product}, {less}: {result.savings:.3f}."
    less = "less what the judge costs" if cascade else "request by request"
    return (
        f"{product}, {less}: {result.savings:.3f}. The router's own cost was not given and is "
        "not counted; "
        "--router-cost takes it, for one decision."
    )


_COLUMNS = (
    Column("way of choosing"),
    Column("small", "share"),
    Column("savings", "share"),
    Column("95 % interval", wide=True),
    Column("quality"),
    Column("unacceptable", "share"),
    Column("a request takes", "seconds", wide=True),
)


def _policies(result: CaptionsResult) -> Iterator[Block]:
    rows = tuple(_row(policy) for policy in result.policies)
    yield Table(_COLUMNS, rows, emphasis=frozenset({0}))
    if len(result.modes) > 1:
        words = ", ".join(f"{mode.name} {units.share(mode.savings)}" for mode in result.modes)
        yield Text(f"The mode was chosen on the calibration split by its savings: {words}.")
    yield Html(
        _curve(result),
        caption="Spend against quality on the test split; every dot is one way of choosing.",
    )


def _row(policy: Policy) -> tuple[Cell, ...]:
    interval = f"{units.share(policy.low)} to {units.share(policy.high)}".replace(" ", "\xa0")
    return (
        policy.name,
        policy.small_share,
        policy.savings,
        interval,
        f"{policy.quality:.4f}",
        policy.error,
        policy.seconds,
    )


def _curve(result: CaptionsResult) -> Markup:
    large = next(policy for policy in result.policies if policy.name == "always large")
    small = next(policy for policy in result.policies if policy.name == "always small")
    with figure(6.4, 3.2) as chart:
        axes = chart.add_subplot()
        axes.plot(
            [p.cost / large.cost for p in (small, large)],
            [p.quality for p in (small, large)],
            color=FAINT,
            linestyle="--",
            label="mixing at random",
        )
        ranked = sorted(result.curve, key=lambda policy: policy.cost)
        axes.plot(
            [p.cost / large.cost for p in ranked],
            [p.quality for p in ranked],
            color=SERIES[0],
            label="this router, other thresholds",
        )
        for index, policy in enumerate(result.policies):
            x, y = policy.cost / large.cost, policy.quality
            axes.errorbar(
                x,
                y,
                yerr=[[y - policy.quality_low], [policy.quality_high - y]],
                fmt="o",
                markersize=4,
                color=SERIES[0] if index == 0 else SERIES[index % len(SERIES)],
                linewidth=0.8,
            )
            axes.annotate(
                policy.name,
                (x, y),
                textcoords="offset points",
                xytext=(6, 5),
                color=INK,
                fontsize=8,
            )
        axes.set_xlim(left=0, right=1.25)
        axes.set_xlabel("spend, always large = 1")
        axes.set_ylabel("mean quality")
        axes.grid(color=FAINT, alpha=0.5)
        axes.legend(loc="lower right")
        return svg(chart, "Spend against mean quality for every way of choosing the model")


def _slices(result: CaptionsResult) -> Table:
    columns = (
        Column("kind"),
        Column("requests", "count"),
        Column("small", "share"),
        Column("unacceptable", "share"),
        Column("at most", "share", wide=True),
        Column("quality"),
        Column("always large"),
    )
    rows = tuple(
        (
            s.name,
            s.requests,
            s.small_share,
            s.error,
            s.error_high,
            f"{s.quality:.4f}",
            f"{s.quality_large:.4f}",
        )
        for s in result.slices
    )
    return Table(columns, rows)


def _mistakes(result: CaptionsResult) -> Iterator[Section]:
    if not result.mistakes:
        return
    columns = (Column("request"), Column("kind"), Column("prompt"), Column("chance", "share"))
    rows = tuple((m.id, m.slice, m.prompt, m.probability) for m in result.mistakes)
    blocks: list[Block] = [Table(columns, rows)]
    if with_pictures := [mistake for mistake in result.mistakes if mistake.image]:
        blocks.append(Html(render("mistakes.html", mistakes=with_pictures)))
    yield Section("Where it errs (the surest mistakes)", tuple(blocks), console=False)


def _steps(result: CaptionsResult) -> Iterator[Block]:
    words = ", ".join(f"{name} {count:,}" for name, count in result.requests.items())
    if result.mode == "cascade" and result.certified:
        yield Text(
            f"The judge looks at the small answers of {units.share(result.checked_share)} of the "
            "requests; the first look decides the others."
        )
    yield Text(f"Requests by split, near duplicates kept together: {words}.")
    if not result.steps:
        yield Text(
            "No threshold promised the wanted error on the calibration split, so none was tested."
        )
        return
    columns = (
        Column("threshold"),
        Column("sent", "count"),
        Column("unacceptable", "count"),
        Column("bound", "share"),
        Column("verdict"),
    )
    tested = (result.steps[0], *result.steps[-3:]) if len(result.steps) > 4 else result.steps
    rows = tuple(
        (f"{s.threshold:.4f}", s.sent, s.errors, s.bound, "passed" if s.passed else "failed, stop")
        for s in tested
    )
    yield Table(
        columns, rows, title=f"Tested in order, the strictest first ({len(result.steps)} in all)"
    )


_LEG_COLUMNS = (
    Column("model"),
    Column("mode"),
    Column("answers", "share"),
    Column("unacceptable", "share"),
    Column("calibrated on", "count"),
    Column("certificate", wide=True),
)


def chain_report_of(result: ChainResult) -> Report:
    """A chain of models."""
    rows = tuple(
        (leg.model, leg.mode, leg.share, leg.error, leg.requests, _leg_words(leg.why))
        for leg in result.legs
    )
    sections = (
        Section("Certificate", tuple(_chain_certificate(result))),
        Section("The models before the largest", (Table(_LEG_COLUMNS, rows),)),
    )
    return Report(
        title="Captions: which requests need which model?",
        summary=_chain_summary(result),
        sections=sections,
    )


def _leg_words(why: str) -> str:
    return f"{why[:1].upper()}{why[1:]}."


def _chain_summary(result: ChainResult) -> str:
    if not result.certified:
        return "Not certified: all requests go to the largest model."
    shares = ", ".join(f"{units.share(leg.share)} {leg.model}" for leg in result.legs)
    oracle = (
        f", {units.share(result.share_of_oracle)} of what an oracle would save"
        if result.share_of_oracle
        else ""
    )
    return (
        f"A chain of {len(result.legs) + 1} models ({shares}) saves {units.share(result.savings)} "
        f"of the spend{oracle}; the small and the large one alone "
        f"{units.share(result.pair_savings)}; {_change(result.quality_loss)}."
    )


def _chain_certificate(result: ChainResult) -> Iterator[Block]:
    if result.certified:
        yield Text(
            f"Of what the largest model does not answer at most {units.share(result.alpha)} is "
            f"unacceptable, with {units.share(1 - result.delta)} confidence: of each model's "
            "answers, and so of all.",
            "good",
        )
    else:
        yield Text("No router could be certified.", "bad")
    if result.error is not None:
        yield Text(
            f"On {result.requests:,} requests that calibrated nothing: {units.share(result.error)} "
            f"were unacceptable (at most {units.share(result.error_high)} with 95 % confidence)."
        )
    if result.certified and result.savings <= result.pair_savings:
        yield Text(
            "The chain saves no more than the small and the large model alone, which have the "
            "whole log to prove themselves on. Log more requests, or leave the models between out.",
            "warning",
        )
