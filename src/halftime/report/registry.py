"""Which function draws which record: one table for the verbs, `halftime show` and notebooks."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from halftime.base.errors import BadInput
from halftime.records import Record
from halftime.report.model import Report

# Record -> the function that makes it a Report, both as module:name, so that looking at the table
# imports neither.
REPORT_FUNCTIONS = {
    "halftime.records.audit:Audit": "halftime.report.audit:report_of",
    "halftime.records.audit:RulesCheck": "halftime.report.audit:rules_report_of",
    "halftime.records.benchmark:Benchmark": "halftime.report.benchmark:report_of",
    "halftime.records.captions:ChainResult": "halftime.report.captions:chain_report_of",
    "halftime.records.captions:CaptionsResult": "halftime.report.captions:report_of",
    "halftime.records.doctor:Doctor": "halftime.report.doctor:report_of",
    "halftime.records.finding:Finding": "halftime.report.finding:report_of",
    "halftime.records.forecast:EvaluationReport": "halftime.report.forecast:evaluation_report_of",
    "halftime.records.forecast:Forecast": "halftime.report.forecast:report_of",
    "halftime.records.forecast:GpuList": "halftime.report.forecast:gpus_report_of",
    "halftime.records.forecast:ModelList": "halftime.report.forecast:models_report_of",
    "halftime.records.gate:Gate": "halftime.report.gate:report_of",
    "halftime.records.gateway:GatewayPlan": "halftime.report.gateway:plan_report_of",
    "halftime.records.gateway:GatewayResult": "halftime.report.gateway:report_of",
    "halftime.records.plan:DeploymentPlan": "halftime.report.plan:report_of",
    "halftime.records.replay:Replay": "halftime.report.replay:report_of",
    "halftime.records.session:Session": "halftime.report.trace:report_of",
    "halftime.records.tune:Tuning": "halftime.report.tune:report_of",
    "halftime.records.verdict:Verdict": "halftime.report.verify:report_of",
}


def report_of(record: object) -> Report:
    """The Report of a record. Raises BadInput for a type that has none."""
    record_type = type(record)
    function = REPORT_FUNCTIONS.get(f"{record_type.__module__}:{record_type.__qualname__}")
    if function is None:
        raise BadInput(
            f"a {record_type.__name__} has no report. These have one: {', '.join(type_names())}."
        )
    report: Report = named(function)(record)  # type: ignore[operator]
    return report


def record_types() -> list[type[Record]]:
    """The types that have a report."""
    return [cast("type[Record]", named(path)) for path in REPORT_FUNCTIONS]


def type_names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.partition(":")[2] for path in REPORT_FUNCTIONS)


def named(path: str) -> object:
    """The object that 'module:name' names."""
    module, _, name = path.partition(":")
    return cast(object, getattr(import_module(module), name))
