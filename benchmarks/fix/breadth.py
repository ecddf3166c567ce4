"""Is every fix right on every pipeline in every state, or refused by name?

    python -m benchmarks.fix.breadth --out benchmarks/results/fix_breadth.json
        [--matrix families|states] [--minutes 60] [--only NAME ...] [--fixes FIX ...] [--again]
        [--oldest]
    python -m benchmarks.fix.breadth --out benchmarks/results/fix_breadth.json --merge FILE ...

Two matrices over tiny random pipelines: each family that the tests can build x each fix, and some
families in each state that users bring them into x each fix. A cell says that the fix applies (and
how far the picture is off), refuses (and why), or fails: it raised, changed the picture by more
than its level allows, or left a trace when it was taken back. Each row runs in its own process.
The result is written after each row, so that a run that was stopped goes on where it was; a row is
measured again when the code of fixes and pipelines has changed since, or with --again. About 70
minutes on one idle core: 12 s a row. States whose library is not installed (peft, accelerate,
torchao, optimum-quanto, gguf, bitsandbytes) are left as they are in the file.

With --fixes, only these columns are measured, in the rows that the file has: for fixes that are
new, or mended. Each row says which of its columns were measured apart, by which source. With
--oldest, families are kept apart as those of the oldest versions that are supported; run it in
an environment that has them. --merge measures nothing: it adds the rows of other result files, of
each row the newest.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from benchmarks.frame import Frame  # noqa: E402
from fix_cells import STEPS, Subject, error_line  # noqa: E402
from halftime.base.environment import versions  # noqa: E402
from halftime.base.store import read_json  # noqa: E402
from halftime.records.benchmark import Benchmark  # noqa: E402
from tiny_pipelines import BREADTH, FAMILIES, PIPELINES, states  # noqa: E402

CODE = ("src/halftime/fix", "src/halftime/pipeline", "src/halftime/upstream")
ROW_SECONDS = 1800  # a row that hangs; a slow cell is stopped by its own limit
MATRICES = ("families", "states", "oldest")
# How Python, or this diffusers, says that it does not have a family yet, or not one that works.
ABSENT = (
    "module diffusers has no attribute",
    "No module named 'diffusers.",
    "Cannot create ComponentSpec from a nn.Module that was not created with",
    "In FluxAutoBeforeDenoiseStep, exactly one None must be specified",
)
PACKAGES = ("diffusers", "torch", "transformers")
Row = dict[str, Any]
Measure = Callable[[str, Collection[str]], Row]


def code_hash() -> str:
    """Of the source that decides what a cell says."""
    digest = hashlib.blake2b(digest_size=6)
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def family_row(name: str, fixes: Collection[str] = ()) -> Row:
    """One family, every fix or these; or that this diffusers does not have it."""
    tiny = {**PIPELINES, **FAMILIES, **BREADTH}[name]
    try:
        pipeline = tiny.build()
    except (AttributeError, ModuleNotFoundError, ValueError) as error:
        if not str(error).startswith(ABSENT):
            raise
        return {"absent": error_line(error)}
    sizes = {k: v for k, v in tiny.arguments(STEPS).items() if k in ("height", "width")}

    def drawn(seed: int) -> object:
        generator = torch.Generator().manual_seed(seed)
        return pipeline(**{**tiny.arguments(STEPS), "generator": generator})

    subject = Subject(
        pipeline, lambda: pipeline(**tiny.arguments(STEPS)), sizes=sizes, seeded=drawn
    )
    cells = subject.row(fixes=fixes)
    return {
        "class": type(pipeline).__name__,
        "cells": {fix: cell.plain() for fix, cell in cells.items()},
    }


def in_own_process(measure: Measure, name: str, limit: float, fixes: Collection[str] = ()) -> Row:
    """What `measure(name, fixes)` gives, or a row with an `error`: it raised, crashed or took over
    `limit` seconds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_measured, args=(measure, name, fixes, sender)
    )
    process.start()
    sender.close()
    try:
        result: Row = (
            receiver.recv() if receiver.poll(limit) else {"error": f"took over {limit:.0f} s"}
        )
    except EOFError:
        result = {"error": "the process died"}
    process.kill()
    process.join()
    return result


def _measured(measure: Measure, name: str, fixes: Collection[str], sender: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        sender.send(measure(name, fixes))
    except Exception as error:
        sender.send({"error": error_line(error)})


def work() -> Iterator[tuple[str, str, Measure]]:
    """(matrix, name, how it is measured) of every row."""
    for name in states.rows():
        yield "states", name, states.measure
    for name in (*PIPELINES, *FAMILIES, *BREADTH):
        yield "families", name, family_row


def merged(into: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both results, of each row the newer one; rows of before their time was kept are the older."""
    matrices = {}
    for matrix in MATRICES:
        rows = dict(into.get(matrix, {}))
        for name, row in other.get(matrix, {}).items():
            if row.get("measured", "") >= rows.get(name, {}).get("measured", ""):
                rows[name] = row
        matrices[matrix] = rows
    return {**into, **matrices}


def in_order(result: dict[str, Any]) -> dict[str, Any]:
    """The result with the rows of each matrix in the order of `work`."""
    names = [name for _, name, _ in work()]
    place = {name: index for index, name in enumerate(names)}
    return result | {
        matrix: dict(
            sorted(result.get(matrix, {}).items(), key=lambda row: place.get(row[0], len(place)))
        )
        for matrix in MATRICES
    }


def origin(code: str, seconds: float) -> Row:
    """Of a row: the source and the versions that measured it, when, and how long it took."""
    installed = versions()
    return {
        "code": code,
        "seconds": round(seconds, 1),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def with_columns(stored: Row, measured: Row, fixes: Collection[str], made: Row) -> Row:
    """A stored row with these columns measured anew, and by which source; where that could not be
    done, each of them fails."""
    failed = {"outcome": "fails", "text": measured.get("error", "")}
    cells = measured.get("cells") or dict.fromkeys(fixes, failed)
    return {
        **stored,
        "cells": stored["cells"] | cells,
        "measured": made["measured"],
        "columns": stored.get("columns", {}) | dict.fromkeys(cells, made["code"]),
    }


def failures(rows: dict[str, Row]) -> Iterator[str]:
    """One line for each cell that fails."""
    for name, measured in rows.items():
        if "error" in measured:
            yield f"{name}: {measured['error']}"
        for fix, cell in measured.get("cells", {}).items():
            if cell["outcome"] == "fails":
                yield f"{name}, {fix}: {cell['text']}"


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--minutes", type=float, default=60.0, help="start no row after this")
    frame.parser.add_argument("--only", nargs="*", help="these rows")
    frame.parser.add_argument("--fixes", nargs="+", default=(), help="these columns")
    frame.parser.add_argument("--matrix", choices=("families", "states", "both"), default="both")
    frame.parser.add_argument("--again", action="store_true", help="measure every row again")
    frame.parser.add_argument("--oldest", action="store_true", help="as of the oldest versions")
    frame.parser.add_argument("--merge", nargs="*", type=Path, help="add the rows of these files")
    options = frame.parse()
    torch.set_num_threads(1)
    result: dict[str, Any] = {matrix: {} for matrix in MATRICES} | frame.earlier()
    if options.merge:
        for path in options.merge:
            result = merged(result, read_json(path, Benchmark).result)
        frame.write(in_order(result))
        return
    code, end = code_hash(), time.monotonic() + 60 * options.minutes
    for matrix, name, measure in work():
        key = "oldest" if options.oldest and matrix == "families" else matrix
        stored = result[key].get(name, {})
        if options.matrix not in (matrix, "both") or (options.only and name not in options.only):
            continue
        if options.fixes:
            columns = stored.get("columns", {})
            if "cells" not in stored or all(columns.get(fix) == code for fix in options.fixes):
                continue
        elif stored.get("code") == code and not options.again and not options.only:
            continue
        if time.monotonic() > end:
            print("out of time: run again to go on")
            break
        started = time.monotonic()
        measured = in_own_process(measure, name, ROW_SECONDS, options.fixes)
        made = origin(code, time.monotonic() - started)
        result[key][name] = (
            with_columns(stored, measured, options.fixes, made)
            if options.fixes
            else measured | made
        )
        frame.write(result)
        print(f"{key} {name} {made['seconds']} s", flush=True)
        for line in failures({name: measured}):
            print("    FAILS", line, flush=True)


if __name__ == "__main__":
    main()
