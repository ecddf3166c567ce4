"""The naming rules: a name says what a thing is, and a class name has one meaning."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "halftime"
FILES = sorted(SOURCE.rglob("*.py"))
LINE_LENGTH = 100
PRAGMA = re.compile(r"\s*# (?:type|noqa|pragma)\b.*")  # not counted, as in ruff
# Participles and pronouns: as the name of a local or a parameter they say nothing about the value.
VAGUE = {
    *("found", "each", "made", "kept", "told", "given", "seen", "taken", "said", "asked"),
    *("place", "rest", "much", "many", "other", "another", "several", "others", "one", "ones"),
    *("some", "wanted", "shown", "drawn", "known", "done", "whole", "those", "these", "what"),
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def vague_names(tree: ast.AST) -> set[str]:
    """Locals and parameters that the list above names."""
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names & VAGUE


def violations() -> set[str]:
    """One line for each rule that a file breaks."""
    lines: set[str] = set()
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines |= {f"{name_of(path)}: a variable called {name}" for name in vague_names(tree)}
        if any(len(PRAGMA.sub("", line)) > LINE_LENGTH for line in text.splitlines()):
            lines.add(f"{name_of(path)}: a line of more than {LINE_LENGTH} columns")
        if "fmt: " + "skip" in text or "fmt: " + "off" in text:
            lines.add(f"{name_of(path)}: a line that is not formatted")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name.lstrip("_")].add(name_of(path))
    lines |= {
        f"class {name} in {', '.join(sorted(paths))}"
        for name, paths in homes.items()
        if len(paths) > 1
    }
    return lines


# What is still to be renamed; empty in the end. Written by, in this folder:
# python -c 'import test_names as t; print(*sorted(t.violations()), sep="\n")'
KNOWN = frozenset(
    """\
base/ledger.py: a variable called each
base/ledger.py: a variable called found
base/ledger.py: a variable called kept
base/ledger.py: a variable called known
base/ledger.py: a variable called place
base/listening.py: a variable called taken
base/store.py: a variable called found
base/store.py: a variable called place
class Answer in records/captions.py, verbs/profile/coldstart.py
class Asked in verbs/captions/collect.py, verbs/captions/request.py
class Broken in verbs/captions/asgi.py, verbs/serve/wire.py
class Call in verbs/profile/run.py, verbs/trace/tree.py
class Chosen in fix/apply.py, verbs/forecast/scenario.py
class Connection in verbs/captions/asgi.py, verbs/gateway/client.py
class Device in records/doctor.py, verbs/audit/tensor.py
class Draw in fix/schedule_table.py, verbs/serve/wire.py
class Engine in verbs/serve/engine.py, verbs/serve/service.py
class Entry in report/model.py, verbs/gateway/mock.py
class Evidence in verbs/gateway/findings.py, verbs/profile/findings.py
class Failed in verbs/captions/collect.py, verbs/serve/messages.py
class Fix in fix/base.py, verbs/forecast/whatif.py
class Forecast in cli/forecast.py, records/forecast.py
class Loaded in pipeline/load.py, verbs/serve/wire.py
class Loop in fix/loop_graph.py, verbs/trace/structure.py
class Machine in verbs/forecast/predict.py, verbs/forecast/roofline.py
class Metrics in verbs/captions/metrics.py, verbs/serve/metrics.py
class Model in verbs/forecast/models.py, verbs/serve/schema.py
class ModelList in records/forecast.py, verbs/serve/schema.py
class Noise in fix/schedule_table.py, verbs/serve/estimate.py
class Picture in verbs/serve/schema.py, verbs/verify/pictures.py
class Recorder in verbs/forecast/tracer.py, verbs/profile/recorder.py
class Run in records/session.py, verbs/captions/collect.py, verbs/forecast/predict.py, verbs/gateway/run.py, verbs/tune/run.py
class Seen in verbs/doctor/examine.py, verbs/profile/compilation.py, verbs/serve/observe.py
class Settings in verbs/captions/calibrate.py, verbs/forecast/scenario.py, verbs/gateway/run.py, verbs/profile/run.py
class State in fix/table_scheduler.py, verbs/gateway/mock.py, verbs/tune/state.py
class Step in fix/schedule_table.py, records/captions.py
class Table in fix/schedule_table.py, report/model.py
class Task in verbs/profile/coldstart.py, verbs/tune/artefacts.py
class Upstream in verbs/captions/upstream.py, verbs/gateway/proxy.py
class Work in verbs/captions/collect.py, verbs/forecast/predict.py
cli/audit.py: a variable called found
cli/audit.py: a variable called given
cli/captions.py: a variable called asked
cli/captions.py: a variable called done
cli/captions.py: a variable called found
cli/captions.py: a variable called one
cli/captions.py: a variable called said
cli/captions.py: a variable called taken
cli/doctor.py: a variable called found
cli/forecast.py: a variable called made
cli/forecast.py: a variable called place
cli/gateway.py: a variable called done
cli/gateway.py: a variable called taken
cli/gateway.py: a variable called what
cli/options.py: a variable called given
cli/options.py: a variable called made
cli/output.py: a variable called done
cli/output.py: a variable called what
cli/replay.py: a variable called found
cli/serve.py: a variable called each
cli/serve.py: a variable called taken
cli/serve.py: a variable called told
cli/trace.py: a variable called other
cli/trace.py: a variable called shown
cli/tune.py: a variable called kept
fix/apply.py: a variable called each
fix/apply.py: a variable called found
fix/apply.py: a variable called made
fix/apply.py: a variable called one
fix/apply.py: a variable called other
fix/artefacts.py: a variable called found
fix/artefacts.py: a variable called known
fix/artefacts.py: a variable called other
fix/artefacts.py: a variable called place
fix/attention.py: a variable called each
fix/attention.py: a variable called kept
fix/attention.py: a variable called other
fix/base.py: a variable called found
fix/base.py: a variable called given
fix/base.py: a variable called known
fix/base.py: a variable called place
fix/fewer_evaluations.py: a variable called kept
fix/fewer_evaluations.py: a variable called place
fix/loop_graph.py: a variable called found
fix/loop_graph.py: a variable called known
fix/loop_graph.py: a variable called others
fix/loop_graph.py: a variable called rest
fix/memory_watch.py: a variable called seen
fix/onnx_runtime.py: a variable called each
fix/runtime.py: a variable called each
fix/schedule_table.py: a variable called kept
fix/schedule_table.py: a variable called rest
fix/scheduling.py: a variable called each
fix/scheduling.py: a variable called known
fix/scheduling.py: a variable called one
fix/scheduling.py: a variable called place
fix/scheduling.py: a variable called wanted
fix/table_scheduler.py: a variable called made
fix/table_scheduler.py: a variable called place
fix/text.py: a variable called each
fix/text.py: a variable called given
fix/text.py: a variable called known
fix/undo.py: a variable called done
fix/upsampling.py: a variable called found
pipeline/arguments.py: a variable called each
pipeline/arguments.py: a variable called made
pipeline/arguments.py: a variable called one
pipeline/arguments.py: a variable called taken
pipeline/arguments.py: a variable called wanted
pipeline/device.py: a variable called found
pipeline/device.py: a variable called place
pipeline/load.py: a variable called known
pipeline/load.py: a variable called shown
pytest_plugin.py: a variable called found
records/priors.py: a variable called each
records/priors.py: a variable called found
records/priors.py: a variable called known
records/priors.py: a variable called wanted
records/priors.py: a variable called whole
records/recipe.py: a variable called kept
records/stages.py: a variable called place
report/audit.py: a variable called what
report/benchmark.py: a variable called each
report/benchmark.py: a variable called kept
report/benchmark.py: a variable called known
report/benchmark.py: a variable called place
report/captions.py: a variable called drawn
report/captions.py: a variable called said
report/captions.py: a variable called shown
report/charts.py: a variable called drawn
report/comparison.py: a variable called other
report/console.py: a variable called drawn
report/console.py: a variable called shown
report/doctor.py: a variable called place
report/drawn.py: a variable called found
report/drawn.py: a variable called made
report/gateway.py: a variable called drawn
report/gateway.py: a variable called kept
report/gateway.py: a variable called known
report/gateway.py: a variable called made
report/gateway.py: a variable called what
report/notebook.py: a variable called kept
report/replay.py: a variable called each
report/replay.py: a variable called rest
report/roofline.py: a variable called drawn
report/roofline.py: a variable called other
report/roofline.py: a variable called shown
report/roofline.py: a variable called taken
report/roofline.py: a variable called whole
report/session.py: a variable called drawn
report/session.py: a variable called each
report/session.py: a variable called kept
report/session.py: a variable called place
report/show.py: a variable called known
report/show.py: a variable called what
report/timeline.py: a variable called drawn
report/tune.py: a variable called drawn
report/tune.py: a variable called kept
report/tune.py: a variable called one
report/tune.py: a variable called other
report/tune.py: a variable called place
report/tune.py: a variable called seen
report/tune.py: a variable called shown
verbs/audit/cases.py: a variable called many
verbs/audit/cases.py: a variable called one
verbs/audit/check.py: a variable called found
verbs/audit/guard.py: a variable called made
verbs/audit/home.py: a variable called seen
verbs/audit/loop.py: a variable called found
verbs/audit/mode.py: a variable called wanted
verbs/audit/patches.py: a variable called made
verbs/audit/run.py: a variable called found
verbs/audit/sites.py: a variable called each
verbs/audit/sites.py: a variable called found
verbs/audit/steps.py: a variable called found
verbs/audit/tensor.py: a variable called made
verbs/audit/waits.py: a variable called given
verbs/captions/asgi.py: a variable called given
verbs/captions/asgi.py: a variable called kept
verbs/captions/asgi.py: a variable called rest
verbs/captions/asgi.py: a variable called told
verbs/captions/calibrate.py: a variable called found
verbs/captions/calibrate.py: a variable called others
verbs/captions/calibrate.py: a variable called place
verbs/captions/certify.py: a variable called place
verbs/captions/collect.py: a variable called asked
verbs/captions/collect.py: a variable called done
verbs/captions/collect.py: a variable called found
verbs/captions/collect.py: a variable called said
verbs/captions/compare.py: a variable called one
verbs/captions/compare.py: a variable called other
verbs/captions/compare.py: a variable called others
verbs/captions/drift.py: a variable called found
verbs/captions/features.py: a variable called found
verbs/captions/litellm_hook.py: a variable called made
verbs/captions/litellm_hook.py: a variable called told
verbs/captions/litellm_hook.py: a variable called wanted
verbs/captions/log.py: a variable called found
verbs/captions/log.py: a variable called kept
verbs/captions/log.py: a variable called whole
verbs/captions/price.py: a variable called drawn
verbs/captions/upstream.py: a variable called given
verbs/doctor/examine.py: a variable called found
verbs/doctor/examine.py: a variable called other
verbs/doctor/examine.py: a variable called place
verbs/doctor/examine.py: a variable called seen
verbs/doctor/examine.py: a variable called wanted
verbs/forecast/cache.py: a variable called found
verbs/forecast/catalogue.py: a variable called known
verbs/forecast/components.py: a variable called made
verbs/forecast/evaluate.py: a variable called known
verbs/forecast/gpus.py: a variable called found
verbs/forecast/gpus.py: a variable called known
verbs/forecast/models.py: a variable called found
verbs/forecast/models.py: a variable called known
verbs/forecast/models.py: a variable called made
verbs/forecast/models.py: a variable called place
verbs/forecast/predict.py: a variable called known
verbs/forecast/roofline.py: a variable called wanted
verbs/forecast/rows.py: a variable called given
verbs/forecast/rows.py: a variable called known
verbs/forecast/rows.py: a variable called made
verbs/forecast/run.py: a variable called made
verbs/forecast/run.py: a variable called one
verbs/forecast/run.py: a variable called wanted
verbs/forecast/saved.py: a variable called found
verbs/forecast/saved.py: a variable called given
verbs/forecast/scenario.py: a variable called given
verbs/forecast/scenario.py: a variable called made
verbs/forecast/session.py: a variable called found
verbs/forecast/session.py: a variable called given
verbs/forecast/tracer.py: a variable called given
verbs/forecast/whatif.py: a variable called made
verbs/gateway/analysis.py: a variable called drawn
verbs/gateway/analysis.py: a variable called found
verbs/gateway/analysis.py: a variable called known
verbs/gateway/analysis.py: a variable called taken
verbs/gateway/client.py: a variable called found
verbs/gateway/endpoint.py: a variable called wanted
verbs/gateway/endpoint.py: a variable called what
verbs/gateway/failures.py: a variable called made
verbs/gateway/findings.py: a variable called found
verbs/gateway/findings.py: a variable called what
verbs/gateway/load.py: a variable called done
verbs/gateway/process.py: a variable called found
verbs/gateway/proxy.py: a variable called done
verbs/gateway/proxy.py: a variable called given
verbs/gateway/run.py: a variable called made
verbs/gateway/run.py: a variable called many
verbs/gateway/run.py: a variable called taken
verbs/gateway/run.py: a variable called what
verbs/gateway/summary.py: a variable called made
verbs/gateway/summary.py: a variable called other
verbs/gateway/summary.py: a variable called whole
verbs/gateway/timer.py: a variable called whole
verbs/profile/coldstart.py: a variable called done
verbs/profile/coldstart.py: a variable called said
verbs/profile/compare.py: a variable called found
verbs/profile/compare.py: a variable called one
verbs/profile/compare.py: a variable called other
verbs/profile/compare.py: a variable called place
verbs/profile/compilation.py: a variable called found
verbs/profile/doubts.py: a variable called place
verbs/profile/facts.py: a variable called place
verbs/profile/findings.py: a variable called found
verbs/profile/instrument.py: a variable called found
verbs/profile/instrument.py: a variable called place
verbs/profile/probe.py: a variable called found
verbs/profile/probe.py: a variable called known
verbs/profile/probe.py: a variable called one
verbs/profile/probe.py: a variable called other
verbs/profile/probe.py: a variable called place
verbs/profile/probe.py: a variable called seen
verbs/profile/recorder.py: a variable called place
verbs/profile/run.py: a variable called asked
verbs/profile/run.py: a variable called each
verbs/profile/run.py: a variable called place
verbs/profile/run.py: a variable called seen
verbs/profile/run.py: a variable called several
verbs/profile/run.py: a variable called what
verbs/profile/traced.py: a variable called place
verbs/replay/run.py: a variable called each
verbs/replay/run.py: a variable called found
verbs/replay/run.py: a variable called one
verbs/replay/run.py: a variable called other
verbs/serve/admission.py: a variable called found
verbs/serve/admission.py: a variable called kept
verbs/serve/auth.py: a variable called found
verbs/serve/auth.py: a variable called given
verbs/serve/bodies.py: a variable called found
verbs/serve/bodies.py: a variable called said
verbs/serve/draw.py: a variable called drawn
verbs/serve/draw.py: a variable called each
verbs/serve/engine.py: a variable called each
verbs/serve/engine.py: a variable called found
verbs/serve/engine.py: a variable called rest
verbs/serve/engine.py: a variable called what
verbs/serve/estimate.py: a variable called kept
verbs/serve/events.py: a variable called done
verbs/serve/events.py: a variable called drawn
verbs/serve/health.py: a variable called one
verbs/serve/health.py: a variable called told
verbs/serve/images.py: a variable called drawn
verbs/serve/images.py: a variable called each
verbs/serve/images.py: a variable called found
verbs/serve/images.py: a variable called told
verbs/serve/images.py: a variable called wanted
verbs/serve/listing.py: a variable called other
verbs/serve/observe.py: a variable called seen
verbs/serve/openapi.py: a variable called made
verbs/serve/order.py: a variable called asked
verbs/serve/order.py: a variable called wanted
verbs/serve/preview.py: a variable called made
verbs/serve/preview.py: a variable called wanted
verbs/serve/profiling.py: a variable called each
verbs/serve/server.py: a variable called taken
verbs/serve/stepping.py: a variable called wanted
verbs/serve/studio.py: a variable called found
verbs/serve/studio.py: a variable called kept
verbs/serve/studio.py: a variable called place
verbs/serve/studio.py: a variable called taken
verbs/serve/warmup.py: a variable called done
verbs/serve/warmup.py: a variable called found
verbs/serve/warmup.py: a variable called known
verbs/serve/warmup.py: a variable called one
verbs/serve/warmup.py: a variable called seen
verbs/serve/warmup.py: a variable called taken
verbs/serve/warmup.py: a variable called whole
verbs/serve/watching.py: a variable called seen
verbs/serve/wire.py: a variable called done
verbs/serve/wire.py: a variable called found
verbs/serve/wire.py: a variable called what
verbs/serve/worker.py: a variable called done
verbs/serve/worker.py: a variable called found
verbs/serve/worker.py: a variable called kept
verbs/serve/worker.py: a variable called wanted
verbs/serve/worker.py: a variable called what
verbs/trace/device.py: a line of more than 100 columns
verbs/trace/device.py: a variable called found
verbs/trace/device.py: a variable called known
verbs/trace/device.py: a variable called rest
verbs/trace/findings.py: a variable called found
verbs/trace/places.py: a variable called each
verbs/trace/places.py: a variable called found
verbs/trace/places.py: a variable called known
verbs/trace/places.py: a variable called place
verbs/trace/read.py: a variable called each
verbs/trace/run.py: a variable called found
verbs/trace/stages.py: a line of more than 100 columns
verbs/trace/stages.py: a variable called found
verbs/trace/stages.py: a variable called known
verbs/trace/syncs.py: a variable called found
verbs/trace/tree.py: a variable called done
verbs/trace/tree.py: a variable called each
verbs/trace/tree.py: a variable called found
verbs/trace/tree.py: a variable called known
verbs/tune/bench.py: a variable called place
verbs/tune/bench.py: a variable called taken
verbs/tune/bench.py: a variable called wanted
verbs/tune/candidates.py: a variable called found
verbs/tune/candidates.py: a variable called kept
verbs/tune/candidates.py: a variable called one
verbs/tune/candidates.py: a variable called other
verbs/tune/candidates.py: a variable called wanted
verbs/tune/decide.py: a variable called other
verbs/tune/quality.py: a variable called drawn
verbs/tune/quality.py: a variable called found
verbs/tune/quality.py: a variable called one
verbs/tune/quality.py: a variable called wanted
verbs/tune/run.py: a variable called drawn
verbs/tune/run.py: a variable called found
verbs/tune/run.py: a variable called given
verbs/tune/run.py: a variable called known
verbs/tune/run.py: a variable called place
verbs/tune/run.py: a variable called seen
verbs/tune/run.py: a variable called several
verbs/tune/run.py: a variable called shown
verbs/tune/run.py: a variable called some
verbs/tune/search.py: a variable called each
verbs/tune/search.py: a variable called kept
verbs/tune/search.py: a variable called known
verbs/tune/search.py: a variable called rest
verbs/tune/search.py: a variable called seen
verbs/tune/slides.py: a variable called ones
verbs/tune/slides.py: a variable called others
verbs/tune/state.py: a variable called found
verbs/tune/state.py: a variable called wanted
verbs/tune/sweep.py: a variable called drawn
verbs/tune/sweep.py: a variable called each
verbs/tune/sweep.py: a variable called found
verbs/tune/sweep.py: a variable called one
verbs/tune/sweep.py: a variable called other
""".splitlines()  # noqa: E501
)


def test_names_say_what_things_are() -> None:
    assert not violations() - KNOWN


def test_the_rules_find_what_they_forbid() -> None:
    assert vague_names(ast.parse("def f(found, x):\n    for each in x: kept = each")) == {
        "found",
        "each",
        "kept",
    }
    assert not vague_names(ast.parse("page.found = rows[0].each"))
