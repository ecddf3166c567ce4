"""The evidence of a real GPU, in one command: every part in a process of its own, within a budget.

Regime: any CUDA machine, no hub: true geometry, random weights made on the device. The most
valuable part comes first, the forecast before anything is measured; a part that crashes costs that
part, and when the time is up, or on Ctrl-C or SIGTERM, what there is is kept. Ceiling: the hard
floors of the forecast, which is scored against what was measured. With `--rehearse` the same parts
run with tiny geometry, and fakes where CUDA itself is asked for.

Prints a line for each part, and writes a folder: the record of every part, sessions (rows for
`halftime forecast calibrate`), forecasts, and `gpu_evidence.json` with all of it, which
`halftime show` draws and `gpu_evidence.html` shows.

    python -m benchmarks.gpu.evidence --budget 8m [--rehearse] [--parts story serve]
        [--folder benchmarks/results/gpu]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.frame import Frame
from benchmarks.gpu.models import REHEARSES
from benchmarks.gpu.parts import PARTS, card, memory_scores, scores, what_if_scores
from halftime.base import units
from halftime.base.store import read_json
from halftime.base.units import parse_seconds
from halftime.pipeline.device import default_device, this_environment
from halftime.records.benchmark import Benchmark
from halftime.report.benchmark import report_of
from halftime.report.page import html

NAME = "gpu_evidence"
REHEARSAL = (
    "tiny geometry on the CPU: no figure here is of a GPU, and the scores hold it against the "
    "forecast of an {}, which shows only that scoring works"
)
_PATIENCE = 20.0  # seconds that a part has to end after it was told to
_WORTH_STARTING = 5.0  # seconds


@dataclass
class Outcome:
    """How a part ended."""

    what: str
    ended: str  # 'whole', 'the time was up', 'status 1: …', 'not begun'
    spent_seconds: float = 0.0
    rows: int = 0

    def as_row(self) -> dict[str, object]:
        return vars(self)


@dataclass
class Collection:
    """The parts as they are collected. `command` starts one, given its name and its seconds."""

    frame: Frame
    folder: Path
    rehearse: bool
    outcomes: list[Outcome] = field(default_factory=list)

    def command(self, part: str, seconds: float) -> list[str]:
        module = [sys.executable, "-m", "benchmarks.gpu.parts", part]
        options = ["--folder", str(self.folder), "--seconds", f"{seconds:.0f}"]
        return [*module, *options, *["--rehearse"] * self.rehearse]

    def collect(self, parts: Sequence[str], budget: float) -> None:
        """Every part that there is time for. Raises KeyboardInterrupt after keeping what there
        is."""
        end = time.monotonic() + budget
        for number, part in enumerate(parts):
            left = end - time.monotonic()
            if left < _WORTH_STARTING:
                self.outcomes += [Outcome(later, "not begun") for later in parts[number:]]
                break
            try:
                share = left if self.rehearse else max(60.0, PARTS[part].share * budget)
                self._run(part, min(left, share))
            finally:
                self.write()
        self.write()

    def _run(self, part: str, seconds: float) -> None:
        begun = time.monotonic()
        path = self.folder / f"{part}.json"
        path.unlink(missing_ok=True)  # of an earlier run
        errors = self.folder / f"{part}.log"
        with errors.open("w") as log:
            process = subprocess.Popen(
                self.command(part, seconds), stdout=log, stderr=log, start_new_session=True
            )
            ended = "interrupted"
            try:
                ended = self._awaited(process, seconds)
            finally:
                end_group(process)
                spent = time.monotonic() - begun
                if ended.startswith("status"):
                    ended = f"{ended}: {last_line(errors)}"
                rows = read_json(path, Benchmark).result["rows"] if path.exists() else []
                assert isinstance(rows, list)
                self.outcomes.append(Outcome(part, ended, spent, len(rows)))
                print(f"{part}: {ended}, {len(rows)} rows in {units.seconds(spent)}", flush=True)

    def _awaited(self, process: subprocess.Popen[bytes], seconds: float) -> str:
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "the time was up"
        return f"status {status}" if status else "whole"

    def write(self) -> None:
        """All that there is, as one record and one page."""
        parts = {
            outcome.what: read_json(path, Benchmark).result["rows"]
            for outcome in self.outcomes
            if (path := self.folder / f"{outcome.what}.json").exists()
        }
        result = {
            "rehearsal": self.rehearse,
            **({"note": REHEARSAL.format(card())} if self.rehearse else {"card": card()}),
            "parts": [outcome.as_row() for outcome in self.outcomes],
            **parts,
            "forecast_scored": list(scores(self.folder)),
            "what_if_scored": list(what_if_scores(self.folder)),
            "memory_scored": list(memory_scores(self.folder)),
        }
        self.frame.write(result)
        record = self.frame.record(result)
        page = html(report_of(record), record)
        self.frame.out.with_suffix(".html").write_text(page, encoding="utf-8")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """The part and all that it started: SIGTERM, and what is left of it SIGKILL."""
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def last_line(path: Path) -> str:
    """The end of a part's output, which says why it failed."""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no output"


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM keeps what there is, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    frame = Frame(__file__, __doc__, name=NAME)
    frame.parser.add_argument("--budget", type=parse_seconds, default=parse_seconds("8m"))
    frame.parser.add_argument("--rehearse", action="store_true")
    frame.parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    frame.parser.add_argument("--folder", type=Path, default=Path("out/gpu"))
    options = frame.parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    frame.out = options.folder / f"{NAME}.json"
    if options.rehearse:
        os.environ[REHEARSES] = "1"
    frame.environment = this_environment(str(default_device()))
    collection = Collection(frame, options.folder, options.rehearse)
    with terminated_like_interrupted():
        try:
            collection.collect(options.parts, options.budget)
        except KeyboardInterrupt:
            print("interrupted: what was measured is kept")
            return 130
    print(f"wrote {frame.out} and {frame.out.with_suffix('.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
