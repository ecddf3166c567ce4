"""How every benchmark here keeps its result: with the machine, the versions, the commit and the
command beside it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from halftime.base.store import write_json
from halftime.base.version import version
from halftime.pipeline.device import this_environment
from halftime.records import Environment
from halftime.records.benchmark import Benchmark, Measured


def kept(name: str, result: Mapping[str, object], place: Environment | None = None) -> Benchmark:
    """`result` with what a reader needs to repeat it. `place` is the machine as it was before the
    measurement."""
    return Benchmark(
        benchmark=name,
        asks=(sys.modules["__main__"].__doc__ or "").partition("\n")[0],
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        result=msgspec.convert(msgspec.to_builtins(result), dict[str, Measured]),
        environment=place or this_environment(),
    )


def write(
    path: Path, name: str, result: Mapping[str, object], place: Environment | None = None
) -> None:
    """Write a result file; the last line on standard output stays the script's own."""
    write_json(path, kept(name, result, place))
