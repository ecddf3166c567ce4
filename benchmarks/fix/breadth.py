"""Is every fix right on every pipeline in every state, or refused by name?

    python -m benchmarks.fix.breadth --out benchmarks/results/fix_breadth.json
        [--matrix families|states] [--minutes 60] [--only NAME ...] [--again]

Two matrices over tiny random pipelines: each family that the tests can build x each fix, and some
families in each state that users bring them into x each fix. A cell says that the fix applies (and
how far the picture is off), refuses (and why), or fails: it raised, changed the picture by more
than its level allows, or left a trace when it was taken back. Each row runs in its own process.
The result is written after each row, so that a run that was stopped goes on where it was; a row is
measured again when the code of fixes and pipelines has changed since, or with --again. About 70
minutes on one idle core: 12 s a row. States whose library is not installed (peft, accelerate,
torchao, optimum-quanto, gguf, bitsandbytes) are left as they are in the file.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from benchmarks.frame import Frame  # noqa: E402
from fix_cells import STEPS, Subject, error_line  # noqa: E402
from tiny_pipelines import BREADTH, FAMILIES, PIPELINES, states  # noqa: E402

CODE = ("src/halftime/fix", "src/halftime/pipeline", "src/halftime/upstream")
ROW_SECONDS = 1800  # a row that hangs; a slow cell is stopped by its own limit
Row = dict[str, Any]


def code_hash() -> str:
    """Of the source that decides what a cell says."""
    digest = hashlib.blake2b(digest_size=6)
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def family_row(name: str) -> Row:
    """One family, every fix."""
    tiny = {**PIPELINES, **FAMILIES, **BREADTH}[name]
    pipeline = tiny.build()
    cells = Subject(pipeline, lambda: pipeline(**tiny.arguments(STEPS))).row()
    return {
        "class": type(pipeline).__name__,
        "cells": {fix: cell.plain() for fix, cell in cells.items()},
    }


def in_own_process(measure: Callable[[str], Row], name: str, limit: float) -> Row:
    """What `measure(name)` gives, or a row with an `error`: it raised, crashed or took over
    `limit` seconds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_measured, args=(measure, name, sender)
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


def _measured(measure: Callable[[str], Row], name: str, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        sender.send(measure(name))
    except Exception as error:
        sender.send({"error": error_line(error)})


def work() -> Iterator[tuple[str, str, Callable[[str], Row]]]:
    """(matrix, name, how it is measured) of every row."""
    for name in states.rows():
        yield "states", name, states.measure
    for name in (*PIPELINES, *FAMILIES, *BREADTH):
        yield "families", name, family_row


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
    frame.parser.add_argument("--matrix", choices=("families", "states", "both"), default="both")
    frame.parser.add_argument("--again", action="store_true", help="measure every row again")
    options = frame.parse()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"families": {}, "states": {}, **frame.earlier()}
    code, end = code_hash(), time.monotonic() + 60 * options.minutes
    for matrix, name, measure in work():
        stored = result[matrix].get(name, {})
        if options.matrix not in (matrix, "both") or (options.only and name not in options.only):
            continue
        if stored.get("code") == code and not options.again and not options.only:
            continue
        if time.monotonic() > end:
            print("out of time: run again to go on")
            break
        started = time.monotonic()
        measured = in_own_process(measure, name, ROW_SECONDS)
        seconds = round(time.monotonic() - started, 1)
        result[matrix][name] = {**measured, "code": code, "seconds": seconds}
        frame.write(result)
        print(f"{matrix} {name} {seconds} s", flush=True)
        for line in failures({name: measured}):
            print("    FAILS", line, flush=True)


if __name__ == "__main__":
    main()
