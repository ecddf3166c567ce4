"""A benchmark's result, with what a reader needs to repeat it."""

from __future__ import annotations

from typing import TypeAlias

from halftime.records.base import Record, Scalar
from halftime.records.environment import Environment

# Anything that JSON holds: every benchmark has its own columns.
Measured: TypeAlias = Scalar | list[object] | dict[str, object]

SCHEMA = 1


class Benchmark(Record, frozen=True, kw_only=True):
    """What a module of `benchmarks/` measured; `halftime show` draws it.

    In `result`, names end with their unit (`…_seconds`, `…_bytes`, `…_share`, `speedup`,
    `…_ratio`); a list of objects is a table. Made before results kept it: `command` and
    `environment` may be empty.
    """

    schema: int = SCHEMA
    benchmark: str
    asks: str = ""  # the first paragraph of the module's docstring
    halftime: str = ""  # as halftime.base.version names it: with the commit
    created: str = ""
    command: str = ""
    result: dict[str, Measured]
    environment: Environment | None = None
