"""A forecast as a Report: stages with bands and floors, roofline, fixes, and its foundations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from halftime.base import units
from halftime.records.forecast import (
    Calibration,
    ErrorSummary,
    EvaluationReport,
    Forecast,
    GpuList,
    ModelList,
    StageForecast,
)
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
from halftime.report.roofline import roofline

_TONES: dict[str, Literal["good", "warning", "bad"]] = {
    "possible": "good",
    "implausible": "warning",
    "impossible": "bad",
}
_BOUNDS = {"compute": "arithmetic", "memory": "memory", "launch": "the host"}


def report_of(forecast: Forecast) -> Report:
    """The forecast, most needed first."""
    sections = (
        Section("Claims", _claims(forecast)),
        Section("Stages", (_stages(forecast),)),
        Section("What each fix would save", _fixes(forecast)),
        Section("What a picture costs", _prices(forecast)),
        Section("Roofline", _roofline(forecast), console=False),
        Section("Networks", (_networks(forecast),), console=False),
        Section("How far to trust this", (_trust(forecast),)),
    )
    return Report(
        title=f"{forecast.model} on one {forecast.gpu}",
        summary=_summary(forecast),
        sections=tuple(section for section in sections if section.blocks),
    )


def _summary(f: Forecast) -> str:
    longest = max(f.stages, key=lambda stage: stage.seconds)
    how = (
        f"{f.width}x{f.height}, {f.steps} steps, {f.dtype}, {'compiled' if f.compiled else 'eager'}"
    )
    pictures = f", {f.batch} pictures" if f.batch > 1 else ""
    cfg = ", guidance" if f.guidance else ""
    return (
        f"{units.seconds(f.total.seconds)} ({_band(f.total.low, f.total.high)}) for one warm "
        f"call: {how}{cfg}"
        f"{pictures}. "
        f"{longest.stage} takes {units.share(longest.seconds / f.total.seconds)} of it, "
        f"bound by {_BOUNDS[longest.bound]}; no software can be faster than "
        f"{units.seconds(f.total.floor_seconds)}."
    )


def _claims(f: Forecast) -> tuple[Block, ...]:
    if not f.claims:
        return ()
    return (
        Bullets(
            tuple(
                Text(
                    f"{c.stage} in {units.seconds(c.claimed_seconds)}: {c.verdict}. "
                    f"{c.arithmetic}.",
                    _TONES[c.verdict],
                )
                for c in f.claims
            )
        ),
    )


def _band(low: float, high: float) -> str:
    return f"{units.seconds(low)} to {units.seconds(high)}"


def _stages(f: Forecast) -> Table:
    columns = (
        Column("stage"),
        Column("seconds", "seconds"),
        Column("90 % band"),
        Column("share", "share"),
        Column("floor", "seconds"),
        Column("bound by"),
        Column("FLOPs", "flops", wide=True),
        Column("kernels", "count", wide=True),
        Column("peak memory", "bytes", wide=True),
    )

    def cells(s: StageForecast) -> tuple[Cell, ...]:
        return (
            s.stage,
            s.seconds,
            _band(s.low, s.high),
            s.seconds / f.total.seconds,
            s.floor_seconds or None,
            _BOUNDS[s.bound],
            s.flops or None,
            s.kernels or None,
            s.memory_bytes or None,
        )

    return Table(
        columns, rows_of(*map(cells, (*f.stages, f.total))), emphasis=frozenset({len(f.stages)})
    )


def _fixes(f: Forecast) -> tuple[Block, ...]:
    if not f.fixes:
        return ()
    fixes = sorted(f.fixes, key=lambda fix: -fix.ratio)
    in_order = tuple(fixes) == f.fixes
    columns = (
        Column("fix"),
        Column("alone", "ratio"),
        Column("90 % band", wide=True),
        Column("stacked", "ratio"),
        Column("assumed"),
    )
    rows = [
        (
            f"{fix.fix} {fix.kind}".rstrip(),
            fix.ratio,
            f"{units.ratio(fix.low)} to {units.ratio(fix.high)}",
            fix.stacked_ratio,
            fix.note,
        )
        for fix in fixes
    ]
    explained = (
        "Ratio of the whole call's time without and with the fix. Stacked: with every fix "
        f"{'above it' if in_order else 'that this older file lists before it'}; lossy ones and "
        "those that do fewer steps are left out of the stack."
    )
    return (Text(explained), Table(columns, rows_of(*rows)))


def _prices(f: Forecast) -> tuple[Block, ...]:
    if not f.prices:
        return ()
    columns = (
        Column("GPU"),
        Column("a picture takes", "seconds"),
        Column("90 % band", wide=True),
        Column("an hour costs"),
        Column("1,000 pictures cost"),
        Column("remark"),
    )
    rows = [
        (
            p.gpu,
            p.seconds,
            _band(p.low, p.high),
            f"{p.per_hour:.2f}",
            f"{1000 * p.per_picture:.2f}",
            "does not fit" if not p.fits else "" if p.meets_target else "misses the target",
        )
        for p in f.prices
    ]
    best = f.prices[0]
    good = best.fits and best.meets_target
    words = (
        f"Cheapest: {best.gpu}."
        if good
        else "No GPU of the list fits the call and meets the target."
    )
    return (Text(words, "good" if good else "warning"), Table(columns, rows_of(*rows)))


def _roofline(f: Forecast) -> tuple[Block, ...]:
    caption = (
        "Each mark is all operations of one kind in one stage; its area is the time they take. "
        "Left of the ridge memory is the limit, right of it arithmetic; the distance to the roof "
        "is what kernels, tiles and power leave."
    )
    return (Html(roofline(f), caption=caption),)


def _networks(f: Forecast) -> Table:
    rows = [(name, f"{count / 1e6:,.1f} M") for name, count in f.parameters.items()]
    return Table((Column("component"), Column("parameters")), rows_of(*rows))


def _trust(f: Forecast) -> Bullets:
    fits = Text(
        f"Peak memory {units.size(f.memory_bytes)} of {units.size(f.gpu_memory_bytes)}: "
        + ("fits." if f.fits else "does not fit."),
        "plain" if f.fits else "bad",
    )
    basis = Text(
        f"Rests on {f.calibrated_on}. One measured session narrows it: halftime forecast "
        "calibrate SESSION.json."
    )
    return Bullets(
        (fits, basis, *(Text(note[0].upper() + note[1:] + ".", "warning") for note in f.notes))
    )


def _errors_table(title: str, groups: Sequence[ErrorSummary]) -> Table:
    columns = (
        Column(title),
        Column("rows", "count"),
        Column("median error", "share", bar=False),
        Column("90th percentile", "share", bar=False),
        Column("bias", "share", bar=False),
        Column("inside the band", "share"),
    )
    return Table(
        columns,
        rows_of(*((g.group, g.rows, g.median, g.p90, g.bias, g.within_band) for g in groups)),
    )


def evaluation_report_of(report: EvaluationReport) -> Report:
    """Forecasts against measurements."""
    overall = report.overall
    summary = (
        f"Median error {units.share(overall.median)}, 90th percentile {units.share(overall.p90)} "
        f"over {overall.rows} rows."
        if overall
        else "No row could be evaluated."
    )
    ordering = (
        [
            Text(
                f"{units.share(report.ordering)} of {report.ordering_pairs:,} pairs on one GPU "
                "are in the right order."
            )
        ]
        if report.ordering is not None
        else []
    )
    floor = Text(
        f"{report.floor_above_measurement} rows were measured faster than the hard floor.",
        "bad" if report.floor_above_measurement else "plain",
    )
    reasons = tuple(Text(f"{row.id} ({row.gpu}): {row.reason}") for row in report.not_evaluated)
    sections = (
        [
            Section("By kind", (_errors_table("kind", report.by_kind),)),
            Section("By GPU", (_errors_table("GPU", report.by_gpu),)),
            Section("By family", (_errors_table("family", report.by_family),)),
            Section("Order and floor", (Bullets((*ordering, floor)),)),
        ]
        if overall
        else []
    )
    if reasons:
        sections.append(Section(f"Not evaluated: {len(reasons)}", (Bullets(reasons),)))
    return Report(
        title=f"Forecasts against measurements (calibrate: {report.calibrate})",
        summary=f"{summary} Constants fitted on {report.fitted_on}.",
        sections=tuple(sections),
    )


def calibration_report_of(calibration: Calibration, path: str) -> Report:
    """What a session taught."""
    columns = (
        Column("stage"),
        Column("measured", "seconds"),
        Column("before", "seconds"),
        Column("after", "seconds"),
    )
    rows = rows_of(
        *(
            (o.stage, o.measured_seconds, o.before_seconds, o.after_seconds)
            for o in calibration.observations
        )
    )
    return Report(
        title=f"{calibration.gpu}, calibrated",
        summary=f"From {calibration.source}. Forecasts for the {calibration.gpu} use it from "
        f"{path}.",
        sections=(Section("Stages", (Table(columns, rows),)),),
    )


def gpus_report_of(listed: GpuList) -> Report:
    """The table of GPUs."""
    columns = (
        Column("GPU"),
        Column("generation"),
        Column("memory", "bytes"),
        Column("fp16", "flops_per_second"),
        Column("fp32", "flops_per_second"),
        Column("bandwidth", "bytes_per_second"),
        Column("watts", "count"),
        Column("rows fitted", "count"),
    )
    gpus = listed.gpus
    rows = [
        (
            g.name,
            g.architecture,
            g.memory_bytes,
            g.peak.get("fp16"),
            g.peak.get("fp32"),
            g.bandwidth,
            g.watts,
            g.measurements or None,
        )
        for g in gpus
    ]
    sources = Bullets(tuple(Text(f"{g.name}: {g.source}") for g in gpus))
    return Report(
        title="GPUs",
        summary=f"{len(gpus)} GPUs, dense rates, fp32 accumulation. To add one, add a line to "
        "records/data/gpus.csv.",
        sections=(
            Section("Values", (Table(columns, rows_of(*rows)),)),
            Section("Sources", (sources,)),
        ),
    )


def models_report_of(listed: ModelList) -> Report:
    """The built-in names."""
    first = Table(
        (
            Column("pipeline"),
            Column("denoiser"),
            Column("size"),
            Column("steps", "count"),
            Column("dtype"),
        ),
        rows_of(
            *(
                (p.name, p.denoiser, f"{p.width}x{p.height}", p.steps, p.dtype)
                for p in listed.pipelines
            )
        ),
    )
    second = Table(
        (Column("network"), Column("role"), Column("class"), Column("published parameters")),
        rows_of(
            *(
                (
                    n.name,
                    n.role,
                    n.class_name,
                    f"{n.parameters / 1e6:,.1f} M" if n.parameters else None,
                )
                for n in listed.networks
            )
        ),
    )
    return Report(
        title="Built-in models",
        summary="Any of these names stands for MODEL; so do folders with config.json files and "
        "cached hub ids.",
        sections=(Section("Pipelines", (first,)), Section("Networks", (second,))),
    )
