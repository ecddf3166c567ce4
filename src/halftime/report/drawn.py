"""Which function draws which record: the one table for the verbs, `halftime show` and the
notebook."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from halftime.records import Record
from halftime.report.model import Report

# Record -> the function that makes it a Report, both as module:name, so that looking at the table
# imports neither.
DRAWN_BY = {
    "halftime.records.audit:Audit": "halftime.report.audit:report_of",
    "halftime.records.audit:RulesCheck": "halftime.report.audit:rules_report_of",
    "halftime.records.benchmark:Benchmark": "halftime.report.benchmark:report_of",
    "halftime.records.captions:CaptionsResult": "halftime.report.captions:report_of",
    "halftime.records.doctor:Doctor": "halftime.report.doctor:report_of",
    "halftime.records.finding:Finding": "halftime.report.finding:report_of",
    "halftime.records.forecast:EvaluationReport": "halftime.report.forecast:evaluation_report_of",
    "halftime.records.forecast:Forecast": "halftime.report.forecast:report_of",
    "halftime.records.forecast:GpuList": "halftime.report.forecast:gpus_report_of",
    "halftime.records.forecast:ModelList": "halftime.report.forecast:models_report_of",
    "halftime.records.gateway:GatewayResult": "halftime.report.gateway:report_of",
    "halftime.records.replay:Replay": "halftime.report.replay:report_of",
    "halftime.records.session:Session": "halftime.report.trace:report_of",
    "halftime.records.tune:Tuning": "halftime.report.tune:report_of",
    "halftime.records.verdict:Verdict": "halftime.report.verify:report_of",
}


def drawn(record: object) -> Report:
    """The Report of a record. Raises KeyError for a type that none draws."""
    kind = type(record)
    made: Report = named(DRAWN_BY[f"{kind.__module__}:{kind.__qualname__}"])(record)  # type: ignore[operator]
    return made


def kinds() -> list[type[Record]]:
    """The types that are drawn."""
    return [cast("type[Record]", named(kind)) for kind in DRAWN_BY]


def named(path: str) -> object:
    """'module:name' -> what is there."""
    module, _, name = path.partition(":")
    found: object = getattr(import_module(module), name)
    return found
