"""A Session as a Report: the ledger first, then what it means."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from halftime.base import units
from halftime.base.stats import bounds_word, spanned
from halftime.records import Environment, Finding, LedgerRow, Session, Workload
from halftime.records.session import BUNDLED
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
    rows_of,
)
from halftime.report.templates import render
from halftime.report.timeline import SCRIPTS, timeline

_WORTH_A_FIX = 1.01  # predicted speedup below which a fix is not what a reader should try first


def report_of(session: Session) -> Report:
    """The whole report of one session."""
    widget = timeline(session)
    sections = [
        Section("Ledger", tuple(_ledger_blocks(session))),
        *([Section("Timeline of one call", (widget,), console=False)] if widget else []),
        *_pictures(session),
        Section("Findings", (_findings(session),)),
        *_doubts(session),
        *_first_call(session),
        *_compilation(session),
        *_memory(session),
        *_moves(session),
        Section("What was run, where", _environment(session), console=False),
    ]
    return Report(
        title=f"{_what_ran(session)}: where {units.seconds(session.wall_seconds)} went",
        summary=_summary(session),
        sections=tuple(sections),
        scripts=SCRIPTS if widget else (),
    )


def _what_ran(session: Session) -> str:
    """The pipeline, and the device that it ran on; a recording may not name any."""
    name = session.pipeline or "Trace"
    device = session.environment.place()
    return f"{name} on {device}" if device else name


def _summary(session: Session) -> str:
    top = max((row for row in session.ledger), key=lambda row: row.seconds, default=None)
    words = [f"One call takes {_wall(session)}"]
    if top:
        words.append(f"most of it in {top.stage} ({units.share(top.share)})")
    best = _best(session)
    if best and best.broken:
        words.append(f"but what it drew is broken ({best.id}): mend that first")
    elif best and best.predicted and _brings_something(best):
        words.append(
            f"the most promising fix is {best.fix}, predicted {units.ratio(best.predicted)} "
            "for the whole call"
        )
    elif best and best.ceiling:
        words.append(
            f"the costliest finding is {best.id}, worth at most {units.ratio(best.ceiling)}"
        )
    notes = "".join(f" Note: {note}." for note in session.notes)
    return "; ".join(words) + "." + notes


def _best(session: Session) -> Finding | None:
    """The first finding, unless its fix brings nothing: then the costliest, and of equals the one
    that has no such fix. Those of the first call have its ceiling, not the steady one's."""
    steady = [finding for finding in session.findings if not finding.of_first_call]
    if not steady or steady[0].broken or _brings_something(steady[0]):
        return steady[0] if steady else None
    return max(steady, key=lambda finding: (finding.ceiling or 0.0, finding.predicted is None))


def _brings_something(finding: Finding) -> bool:
    gain = finding.ceiling if finding.fix is None else finding.predicted
    return (gain or 0.0) >= _WORTH_A_FIX


def _wall(session: Session) -> str:
    walls = [run.wall_seconds for run in session.runs]
    if len(walls) < 2:
        return units.seconds(session.wall_seconds)
    interval = spanned(walls)
    return (
        f"{units.seconds(session.wall_seconds)} (median of {len(walls)} runs "
        f"{units.seconds(interval.value)}, "
        f"{bounds_word(len(walls))} {units.seconds(interval.low)} to "
        f"{units.seconds(interval.high)})"
    )


_LEDGER_COLUMNS: tuple[Column, ...] = (
    Column("stage"),
    Column("time", "seconds"),
    Column("share", "share"),
    Column("first call", "seconds"),
    Column("calls", "count", wide=True),
    Column("step", "seconds"),
    Column("its spread", "share", wide=True, bar=False),
    Column("host blocked", "seconds"),
    Column("launch gap", "seconds"),
    Column("peak memory", "bytes"),
    Column("FLOPs", "flops", wide=True),
    Column("rate", "flops_per_second"),
)


def ledger_table(session: Session) -> Table:
    """The ledger with its total; columns that hold nothing are left out."""
    rows: list[tuple[Cell, ...]] = []
    indent = set()
    peaks = _device_peaks(session)
    for row in session.ledger:
        rows.append(_ledger_cells(row, peaks.get(row.stage)))
        for part in row.parts:
            indent.add(len(rows))
            rows.append(_ledger_cells(part))
    rows.append(_total(session))
    indices = [i for i in range(len(_LEDGER_COLUMNS)) if any(row[i] is not None for row in rows)]
    return Table(
        columns=tuple(_LEDGER_COLUMNS[i] for i in indices),
        rows=tuple(tuple(row[i] for i in indices) for row in rows),
        emphasis=frozenset({len(rows) - 1}),
        indent=frozenset(indent),
    )


def _device_peaks(session: Session) -> dict[str, int | None]:
    """Stage -> the most that tensors took of the device's memory in it; empty where that was not
    measured."""
    memory = session.memory
    return (
        {row.stage: row.peak_bytes for row in memory.stages} if memory and memory.of_device else {}
    )


def _ledger_cells(row: LedgerRow, peak: int | None = None) -> tuple[Cell, ...]:
    return (
        row.stage,
        row.seconds,
        row.share,
        row.first_call_seconds,
        row.calls or None,
        row.per_step.median_seconds if row.per_step else None,
        row.per_step.spread if row.per_step else None,
        row.host_blocked_seconds,
        row.launch_gap_seconds,
        peak,
        row.flops,
        row.flops_per_second,
    )


def _total(session: Session) -> tuple[Cell, ...]:
    flops = sum(row.flops or 0.0 for row in session.ledger) or None
    rate = flops / session.wall_seconds if flops and session.wall_seconds else None
    wall = session.wall_seconds
    total = sum(row.share for row in session.ledger)
    return (
        "wall clock",
        wall,
        total,
        session.first_call_seconds,
        None,
        None,
        None,
        None,
        None,
        max((peak or 0 for peak in _device_peaks(session).values()), default=0) or None,
        flops,
        rate,
    )


def _ledger_blocks(session: Session) -> Iterator[Block]:
    yield ledger_table(session)
    if session.cold_start:
        cold = session.cold_start
        named = cold.import_seconds + cold.load_seconds + cold.first_call_seconds
        yield Text(
            f"Cold start in a fresh process: {units.seconds(cold.process_seconds)} "
            f"(imports {units.seconds(cold.import_seconds)}, load "
            f"{units.seconds(cold.load_seconds)}, "
            f"first call {units.seconds(cold.first_call_seconds)}, Python and the process itself "
            f"{units.seconds(cold.process_seconds - named)})."
        )


def _pictures(session: Session) -> Iterator[Section]:
    if session.pictures:
        markup = render("thumbnails.html", pictures=session.pictures)
        yield Section("What it drew", (Html(markup),), console=False)


def _findings(session: Session) -> Block:
    if not session.findings and session.doubts:
        return Text("Nothing was found, as far as can be seen: read the doubts below.", "warning")
    if not session.findings:
        return Text("Nothing worth fixing was found.", "good")
    return Entries(
        tuple(entry_of(finding, command_of(session, finding)) for finding in session.findings)
    )


def command_of(session: Session, finding: Finding) -> str:
    """What tries the finding's fix on the pipeline that was measured; '' where there is none.

    From a session that the command line measured: a plan, and a profile with it. Where the pipeline
    was a Python object, or on another machine, a line for that program.
    """
    if not finding.fix:
        return ""
    from_python = any("called from Python" in note for note in session.notes)
    if session.kind == "trace" or session.model_argument is None or from_python:
        return f"halftime.applied(pipeline, [{json.dumps(finding.fix)}])"
    plan = f"{finding.fix}.toml"
    model = [] if session.model_argument == BUNDLED else [session.model_argument]
    words = ["halftime", "profile", *model, *_workload_words(session.workload)]
    written = f"printf '[[fixes]]\\nname = \"{finding.fix}\"\\n' > {plan}"
    return f"{written}\n{shlex.join([*words, '--recipe', plan])}"


# Fields of a workload that decide what is loaded, what goes in, and how much is computed; their
# options have the same names.
_FIELDS_IN_COMMANDS = (
    "guidance",
    "scheduler",
    "dtype",
    "device",
    "image",
    "mask",
    "control_image",
    "video",
    "variant",
    "revision",
    "config",
    "custom_pipeline",
    "lora",
)


def _workload_words(workload: Workload) -> list[str]:
    """The options without which a call would be another one; of the prompts, how many."""
    words = ["--steps", str(workload.steps)]
    if workload.width and workload.height:
        words += ["--size", f"{workload.width}x{workload.height}"]
    if workload.images_per_prompt != 1:
        words += ["--batch", str(workload.images_per_prompt)]
    if len(workload.prompts) > 1:
        words += [word for prompt in workload.prompts for word in ("--prompt", prompt)]
    for name in _FIELDS_IN_COMMANDS:
        value = getattr(workload, name)
        for single in value if isinstance(value, tuple) else (value,):
            if single is not None:
                words += [f"--{name.replace('_', '-')}", str(single)]
    for name, argument in workload.arguments.items():
        text = argument if isinstance(argument, str) else json.dumps(argument)
        words += ["--set", f"{name}={text}"]
    return words


def entry_of(finding: Finding, command: str = "") -> Entry:
    """A finding with its cost beside the name, its fix, what that saves (likely, at most), and the
    command that tries it."""
    places = f" ({', '.join(finding.where[:3])})" if finding.where else ""
    facts = [
        f"costs {units.seconds(finding.seconds)}" if finding.seconds is not None else "",
        f"fix: {finding.fix}" if finding.fix else "",
        f"predicted {units.ratio(finding.predicted)}" if finding.predicted else "",
        f"at most {units.ratio(finding.ceiling)}" if finding.ceiling else "",
    ]
    return Entry(
        finding.id,
        ", ".join(filter(None, facts)) or finding.stage,
        finding.message + places,
        command=command,
    )


def _doubts(session: Session) -> Iterator[Section]:
    if session.doubts:
        items = tuple(Text(f"Doubt: {doubt}", "warning") for doubt in session.doubts)
        yield Section("How far to trust these numbers", (Bullets(items),))


def _first_call(session: Session) -> Iterator[Section]:
    rows = [
        [
            row.stage,
            row.first_call_seconds,
            row.seconds,
            row.first_call_seconds / row.seconds if row.seconds > 0 else None,
        ]
        for row in session.ledger
        if row.first_call_seconds is not None
    ]
    if not rows:
        return
    columns = (
        Column("stage"),
        Column("first call", "seconds"),
        Column("steady", "seconds"),
        Column("ratio", "ratio"),
    )
    table = Table(columns, rows_of(*rows))
    blocks: list[Block] = [table]
    if cold := session.cold_start:
        stages = ", ".join(f"{row.stage} {units.seconds(row.seconds)}" for row in cold.first_call)
        seconds = units.seconds(cold.first_call_seconds)
        blocks.append(Text(f"In a fresh process the first call took {seconds}: {stages}."))
    yield Section("First call against steady state", tuple(blocks), console=False)


def _compilation(session: Session) -> Iterator[Section]:
    report = session.compilation
    if report is None:
        return
    summary = (
        f"Compiled: {', '.join(report.compiled) or 'nothing any more'}; {report.graphs} graphs in "
        f"{units.seconds(report.compile_seconds)}, {report.after_warmup} of them after the warm-up."
    )
    items = [
        Text(f"recompiled {r.count}x at {r.where}: {r.reason}", "warning")
        for r in report.recompiles
    ]
    items += [Text(f"graph break, {b.count}x: {b.reason}", "warning") for b in report.graph_breaks]
    yield Section("torch.compile", (Text(summary), *([Bullets(tuple(items))] if items else [])))


def _memory(session: Session) -> Iterator[Section]:
    if session.memory is None:
        return
    columns = (
        Column("stage"),
        Column("peak", "bytes"),
        Column("at its end", "bytes"),
        Column("reserved", "bytes"),
    )
    cells = [[s.stage, s.peak_bytes, s.end_bytes, s.reserved_bytes] for s in session.memory.stages]
    indices = [i for i in range(4) if any(row[i] is not None for row in cells)]
    table = Table(
        tuple(columns[i] for i in indices), rows_of(*([row[i] for i in indices] for row in cells))
    )
    yield Section("Memory", (Text(f"Measured: {session.memory.measure}."), table), console=False)


def _moves(session: Session) -> Iterator[Section]:
    if not session.moves:
        return
    columns = (
        Column("component"),
        Column("in"),
        Column("direction"),
        Column("moves", "count"),
        Column("steps", "count"),
        Column("weights", "bytes"),
        Column("time", "seconds"),
    )
    table = Table(
        columns,
        rows_of(
            *(
                [
                    f"{move.component} ({move.how})",
                    move.stage,
                    "to the device" if move.to_device else "away from it",
                    move.count,
                    move.steps or None,
                    move.bytes,
                    move.seconds,
                ]
                for move in session.moves
            )
        ),
    )
    hidden = " Where they are fetched ahead a part is hidden behind what computes."
    words = "Moved by offloading hooks in one call, each move waited for in a call of its own."
    ahead = any(move.ahead for move in session.moves)
    words += hidden if ahead and not session.transfers else ""
    yield Section("Weights that moved", (Text(words), table, *_copies(session)))


def _copies(session: Session) -> Iterator[Block]:
    """What a traced device copied, and how much of that ran beside kernels."""
    if not session.transfers:
        return
    columns = (
        Column("in"),
        Column("direction"),
        Column("copies", "count"),
        Column("time", "seconds"),
        Column("hidden", "seconds"),
        Column("not hidden", "seconds"),
    )
    rows: list[list[Cell]] = [
        [
            row.stage,
            row.direction,
            row.count,
            row.seconds,
            row.seconds - row.exposed_seconds,
            row.exposed_seconds,
        ]
        for row in session.transfers
    ]
    yield Text("On the device, in a traced call: hidden is what ran while a kernel did, too.")
    yield Table(columns, rows_of(*rows))


def _machine(environment: Environment) -> str:
    if not environment.cores:
        return environment.system  # a trace does not say
    memory = units.size(environment.memory_bytes)
    return f"{environment.processor}, {environment.cores} cores, {memory}, {environment.system}"


def _of_recording(session: Session) -> Iterator[tuple[Cell, ...]]:
    """What a recording says of its run: nothing of prompts, seeds and settings."""
    environment, steps = session.environment, session.workload.steps
    yield "recording", session.model
    if session.pipeline:
        yield "pipeline", session.pipeline
    if steps:
        yield "steps", str(steps)
    yield "device", f"{environment.device}: {environment.device_name}"
    yield "machine", _machine(environment)
    yield "halftime", f"{session.halftime}, {session.created}"


def _environment(session: Session) -> tuple[Block, ...]:
    environment, work = session.environment, session.workload
    if session.kind == "trace":
        return (Table((Column(""), Column("")), tuple(_of_recording(session))),)
    facts: list[tuple[Cell, ...]] = [
        ("model", session.model),
        ("workload", f"hash {session.workload_hash}"),
        ("prompts", "; ".join(work.prompts)),
        ("steps", str(work.steps)),
        ("size", f"{work.width} x {work.height}" if work.width else "the pipeline's own"),
        ("pictures a call", str(len(work.prompts) * work.images_per_prompt)),
        ("seed", str(work.seed)),
        ("scheduler", work.scheduler or "the pipeline's own"),
        ("dtype", work.dtype or "as loaded"),
        ("device", f"{environment.device}: {environment.device_name}"),
        ("machine", _machine(environment)),
        ("torch threads", str(environment.threads)),
        (
            "load before",
            f"{environment.load_average:.2f}"
            if environment.load_average is not None
            else units.NOTHING,
        ),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        ),
        (
            "settings",
            ", ".join(f"{name}={value}" for name, value in environment.settings.items()) or "none",
        ),
        ("halftime", f"{session.halftime}, {session.created}"),
    ]
    return (Table((Column(""), Column("")), tuple(facts)),)
