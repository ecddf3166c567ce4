"""A Benchmark as a Report: lists of objects become tables, everything else a line of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from halftime.base import units
from halftime.records.benchmark import Benchmark
from halftime.records.environment import Environment
from halftime.report.model import Block, Cell, Column, Report, Section, Table, Text, rows_of

# The last word of a name that says what its number is.
UNITS = {
    "seconds": "seconds",
    "bytes": "bytes",
    "share": "share",
    "speedup": "ratio",
    "ratio": "ratio",
}
LONGEST = 6  # numbers of a list that are written out
ABREAST = 6  # columns beside the first that fit on a terminal

Row = Mapping[str, object]


def report_of(benchmark: Benchmark) -> Report:
    """The result first, then where it was made and how to repeat it."""
    return Report(
        title=f"Benchmark {benchmark.benchmark}",
        summary=benchmark.asks or "What it asks is in the script's first lines.",
        sections=(
            *(
                Section(title or "Figures", tuple(blocks))
                for title, blocks in _parts("", benchmark.result)
            ),
            Section("Where it was made, and how", (_origin(benchmark),)),
        ),
    )


def _parts(title: str, row: Row) -> Iterator[tuple[str, list[Block]]]:
    """Titles, each with its blocks: first the leaves of `row`, then everything deeper."""
    deeper = {name: value for name, value in row.items() if _is_row(value) or _is_rows(value)}
    leaves = [(_words(name), written(name, row[name])) for name in row if name not in deeper]
    if leaves:
        yield title, [Table((Column("figure"), Column("value")), rows_of(*leaves))]
    for name, value in deeper.items():
        below = f"{title}, {_words(name)}" if title else _words(name).capitalize()
        if _is_rows(value):
            yield below, list(_tables(value))
        elif _is_row(value):
            rows = [{"": key, **inner} for key, inner in value.items() if _is_row(inner)]
            if len(value) > 1 and len(rows) == len(value) and not any(map(_deep, value.values())):
                yield below, list(_tables(rows))
            else:
                yield from _parts(below, value)


def _is_row(value: object) -> TypeGuard[Row]:
    return isinstance(value, Mapping) and bool(value)


def _is_rows(value: object) -> TypeGuard[Sequence[Row]]:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_row, value))


def _deep(row: object) -> bool:
    return _is_row(row) and any(_is_row(value) or _is_rows(value) for value in row.values())


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Tables as wide as fits, each with the rows' names; then tables of what lies deeper.

    What no row has is left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if row[name] is not None))
    deep = [name for name in names if any(_is_row(row.get(name)) for row in rows)]
    flat = [name for name in names if name not in deep]
    if not flat:
        yield from _tables([{**row, "": number} for number, row in enumerate(rows, 1)])
        return
    label = next(
        (name for name in flat if any(isinstance(row.get(name), str) for row in rows)), flat[0]
    )
    flat.remove(label)
    for start in range(0, len(flat) or 1, ABREAST):
        yield _table(rows, label, flat[start : start + ABREAST])
    for name in deep:
        below = [(row.get(label), inner) for row in rows if _is_row(inner := row.get(name))]
        for table in _tables([{label: row_name, **inner} for row_name, inner in below]):
            yield Table(table.columns, table.rows, title=_words(name))


def _table(rows: Sequence[Row], label: str, names: list[str]) -> Table:
    cells = ([written(name, row.get(name)) for name in (label, *names)] for row in rows)
    return Table(tuple(Column(_words(name)) for name in (label, *names)), rows_of(*cells))


def _words(name: str) -> str:
    return name.replace("_", " ")


def written(name: str, value: object) -> Cell:
    """A leaf as a person reads it; its name says its unit: `added_seconds` are seconds."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        known_units = [UNITS[word] for word in name.split("_") if word in UNITS]
        if known_units:
            return units.FORMATS[known_units[-1]](value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > LONGEST:
            return f"{len(value)} values"
        return ", ".join(str(written(name, item)) for item in value)
    return str(value)


def _origin(benchmark: Benchmark) -> Table | Text:
    facts = {
        "made": benchmark.created,
        "halftime": benchmark.halftime,
        "command": benchmark.command,
        **(_machine(benchmark.environment) if benchmark.environment else {}),
    }
    rows = [(name, fact) for name, fact in facts.items() if fact]
    return (
        Table((Column(""), Column("")), tuple(rows)) if rows else Text("Not recorded.", "warning")
    )


def _machine(machine: Environment) -> dict[str, str]:
    load, memory = machine.load_average, units.size(machine.memory_bytes)
    return {
        "machine": f"{machine.processor}, {machine.cores} cores, {memory}",
        "device": f"{machine.device} ({machine.device_name}), {machine.threads} threads",
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "settings": ", ".join(f"{name}={value}" for name, value in machine.settings.items()),
        "load average": f"{load:.1f}" if load is not None else "",
    }
