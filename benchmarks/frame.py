"""The frame of every benchmark: its command line, the machine it ran on, its result file.

A benchmark is `benchmarks/<verb>/<what>.py`, and runs in the checkout as
`python -m benchmarks.<verb>.<what>`. It writes one record, `--out`, by default
`out/<verb>_<what>.json`: a trial never overwrites a committed result, and nothing that was measured
is lost. Those that pages quote are committed under benchmarks/results/; the docstring's command
says `--out benchmarks/results/...`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from halftime.base.store import check_writable, read_json, write_json
from halftime.base.version import version
from halftime.pipeline.device import this_environment
from halftime.records import Environment
from halftime.records.benchmark import Benchmark, Measured

OUT = Path("out")  # of the folder where the command runs; git ignores it


def summary(doc: str | None) -> str:
    """A docstring's first paragraph, as one line."""
    return " ".join((doc or "").partition("\n\n")[0].split())


class Frame:
    """One run of a benchmark: `Frame(__file__, __doc__)`, its options, `parse`, then `write`.

    `name` is how the record and its file are called, by default `<verb>_<what>`.
    """

    def __init__(self, file: str, doc: str | None, name: str = "") -> None:
        path = Path(file)
        self.module = ".".join([*path.parts[-3:-1], path.stem])  # benchmarks.<verb>.<what>
        self.name = name or f"{path.parent.name}_{path.stem}"
        self.question = summary(doc)
        self.parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument(
            "--out",
            type=Path,
            default=OUT / f"{self.name}.json",
            help="where the result goes (default: %(default)s)",
        )
        self.out = self.parser.get_default("out")
        self.environment: Environment | None = None

    def parse(self) -> argparse.Namespace:
        """The options; and the machine, as it is before the work. Raises BadFile where `--out`
        cannot be written."""
        options = self.parser.parse_args()
        self.out = options.out
        if self.out.suffix:  # not a folder of results
            check_writable(self.out)
        self.environment = this_environment()
        return options

    def itself(self, *arguments: str) -> list[str]:
        """The command that runs this benchmark again in a fresh process, from the checkout."""
        return [sys.executable, "-m", self.module, *arguments]

    def earlier(self) -> dict[str, Measured]:
        """The result that `--out` holds already, empty where there is none: for what is measured
        in parts."""
        return read_json(self.out, Benchmark).result if self.out.exists() else {}

    def record(self, result: Mapping[str, object]) -> Benchmark:
        """`result` with what a reader needs to repeat it: machine, versions, commit and command."""
        return Benchmark(
            benchmark=self.name,
            asks=self.question,
            halftime=version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(["python", "-m", self.module, *sys.argv[1:]]),
            result=msgspec.convert(msgspec.to_builtins(result), dict[str, Measured]),
            environment=self.environment or this_environment(),
        )

    def write(self, result: Mapping[str, object]) -> None:
        """Write the record to `--out`; may be called again as more is measured."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.out, self.record(result))
