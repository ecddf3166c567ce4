"""What torch.compile did: graphs, recompiles and graph breaks, with the reason in plain words."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halftime.base import source
from halftime.pipeline.components import components_of
from halftime.records import CompileReport, Recompile
from halftime.upstream import pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# dynamo's reason -> what a user can act on; the first that matches counts. Source:
# torch/_dynamo/guards.py (2.13).
PLAIN_WORDS: tuple[tuple[str, str], ...] = (
    (
        r"lora_|active_adapter|merged_adapters",
        (
            "the adapters of a compiled model changed: call pipeline.enable_lora_hotswap(...) "
            "before it is compiled, and load the next adapter with hotswap=True"
        ),
    ),
    (
        r"tensor '(.+)' size mismatch at index (\d+)\. expected (\d+), actual (\d+)",
        (
            r"the size of \1 changed from \3 to \4 in dimension \2: pin the shapes, or mark the "
            r"dimension dynamic"
        ),
    ),
    (
        r"tensor '(.+)' stride mismatch at index (\d+)\. expected (\d+), actual (\d+)",
        (
            r"the memory layout of \1 changed (stride \3 to \4): keep to one of contiguous and "
            r"channels_last"
        ),
    ),
    (
        r"tensor '(.+)' dtype mismatch\. expected ([\w.]+), actual ([\w.]+)",
        r"the dtype of \1 changed from \2 to \3",
    ),
    (
        r"tensor '(.+)' requires_grad mismatch",
        r"\1 began or ceased to require gradients: call under no_grad always",
    ),
    (r"___check_type_id\((.+?), \d+\)", r"the type of \1 changed"),
    (r"___check_obj_id\((.+?), \d+\)", r"\1 became another object"),
    (
        r"grad_mode|GRAD_MODE",
        "the grad mode changed: always call under the same of no_grad and inference_mode",
    ),
    (r"(.+?) == (.+)", r"the value of \1 is no longer \2: dynamo compiled it in as a constant"),
)


def plain_words(reason: str) -> str:
    """A recompile's reason as a sentence; dynamo's own first line where the kind is not known."""
    line = next(iter(reason.strip().splitlines()), "no reason given")
    guard = re.sub(r"^\s*-?\s*\d+/\d+:\s*", "", line)
    guard = re.sub(r"\s+#.*$", "", guard)
    for pattern, words in PLAIN_WORDS:
        match = re.search(pattern, guard)
        if match:
            return _plain_names(match.expand(words))
    return guard


def _plain_names(words: str) -> str:
    """A name as its author wrote it: hidden_states for L['kwargs']['hidden_states']."""
    words = re.sub(r"(?:L\['kwargs'\]|kwargs|L)\['(\w+)'\]", r"\1", words)
    return re.sub(r"\['(\w+)'\]", r".\1", words)


@dataclass(frozen=True)
class CompileCounters:
    """How much dynamo had compiled at a moment."""

    microseconds: float  # since the epoch
    graphs: int
    breaks: Counter[str]


def look() -> CompileCounters:
    """The counters as they are now; zero where dynamo was never loaded."""
    now = time.time() * 1e6
    counters = pytorch.dynamo_counters()
    return CompileCounters(
        now, counters["stats"]["unique_graphs"], Counter(counters["graph_break"])
    )


def report(
    pipeline: DiffusionPipeline,
    before: CompileCounters,
    warm: CompileCounters,
    after: CompileCounters,
) -> CompileReport | None:
    """What was compiled from `before` to `after`, and how much of it after the warm-up.

    None where nothing was compiled, then or earlier.
    """
    compiled = tuple(
        name
        for name, component in components_of(pipeline).items()
        if pytorch.is_compiled(component)
    )
    if not compiled and after.graphs == before.graphs:
        return None
    # dynamo keeps the last 64 compilations; the counters above count all of them.
    metrics = [
        metric
        for metric in pytorch.compilations()
        if (metric.start_time_us or 0) >= before.microseconds
    ]
    return CompileReport(
        compiled=compiled,
        graphs=after.graphs - before.graphs,
        compile_seconds=sum(metric.entire_frame_compile_time_s or 0.0 for metric in metrics),
        recompiles=_recompiles(metrics),
        graph_breaks=tuple(
            Recompile(where="", reason=next(iter(reason.strip().splitlines()), reason), count=count)
            for reason, count in (after.breaks - before.breaks).most_common()
        ),
        after_warmup=after.graphs - warm.graphs,
    )


def _compiled_function(metric: pytorch.CompilationMetrics) -> str:
    """The function that was compiled; of diffusers' decorators, which stand around many, their name
    alone."""
    file = source.short(str(metric.co_filename))
    if file.startswith("diffusers/utils/"):
        return "the model's forward"
    return f"{file}:{metric.co_firstlineno} {metric.co_name}"


def _recompiles(metrics: Sequence[pytorch.CompilationMetrics]) -> tuple[Recompile, ...]:
    reasons = Counter(
        (
            _compiled_function(metric),
            plain_words(metric.recompile_reason),
        )
        for metric in metrics
        if metric.recompile_reason
    )
    return tuple(
        Recompile(where=where, reason=reason, count=count)
        for (where, reason), count in reasons.most_common()
    )
