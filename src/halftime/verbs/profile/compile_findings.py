"""Rules about torch.compile: what it costs where it should be done, and where it does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.records import Finding
from halftime.records.fixes import FixName
from halftime.records.stages import COMPILATION
from halftime.verbs.profile.evidence import ProfileEvidence, Rule, counted, finding_of

# method of a component -> the fix that compiles what it runs
_METHOD_FIXES: dict[str, FixName] = {"decode": "vae-compile"}


def _steady_compilation(evidence: ProfileEvidence) -> Iterator[Finding]:
    """Compiling in a steady call: a fault in itself, and all of its seconds can be saved."""
    seconds = evidence.costs(COMPILATION)
    report = evidence.compilation
    if report is None or not evidence.worth_saying(seconds):
        return
    reason = report.recompiles[0].reason if report.recompiles else "call with a few pinned shapes"
    yield evidence.finding(
        "compiles-in-steady-calls",
        COMPILATION,
        seconds,
        None,
        "torch.compile still compiles in calls after the warm-up "
        f"({evidence.part_of_call(seconds)}): {reason}",
        where=evidence.compiled_for,
    )


def _recompiles(evidence: ProfileEvidence) -> Iterator[Finding]:
    report = evidence.compilation
    if evidence.worth_saying(evidence.costs(COMPILATION)):
        return  # said with its cost
    if report and report.after_warmup:
        reason = report.recompiles[0].reason if report.recompiles else "no reason recorded"
        yield finding_of(
            "recompiles",
            "call",
            f"compiled again after the warm-up: {counted(report.after_warmup, 'graph')}; {reason}",
            where=evidence.compiled_for
            or tuple(dict.fromkeys(recompile.where for recompile in report.recompiles)),
        )


def _graph_breaks(evidence: ProfileEvidence) -> Iterator[Finding]:
    report = evidence.compilation
    if report and report.graph_breaks:
        total = sum(broken.count for broken in report.graph_breaks)
        yield finding_of(
            "graph-breaks",
            "call",
            f"torch.compile broke the graph {counted(total, 'time')}, most often for: "
            f"{report.graph_breaks[0].reason}",
        )


def _without_effect(evidence: ProfileEvidence) -> Iterator[Finding]:
    """torch.compile(module) compiles `forward`; a pipeline may call another method alone."""
    names = {span.name for span in evidence.spans}
    for module in evidence.facts.modules:
        methods = sorted(
            name.partition(".")[2] for name in names if name.startswith(f"{module.name}.")
        )
        if not module.compiled_whole or module.name in names or not methods:
            continue
        if {*methods} & {*module.compiled_methods}:
            continue
        own = [span for span in evidence.spans if span.name.startswith(f"{module.name}.")]
        seconds = sum(span.seconds for span in own)
        method = methods[0]
        path = f"pipeline.{module.name}.{method}"
        yield evidence.finding(
            "compile-without-effect",
            own[0].stage,
            min(seconds, evidence.wall_seconds),
            _METHOD_FIXES.get(method),
            f"the {module.name} is compiled without effect: torch.compile compiles its forward, "
            f"and this pipeline calls {' and '.join(methods)} ({units.seconds(seconds)}), which "
            f"runs eagerly. The line that works: {path} = torch.compile({path})",
        )


COMPILE_RULES: tuple[Rule, ...] = (
    _steady_compilation,
    _without_effect,
    _recompiles,
    _graph_breaks,
)
