"""What the ledger says to a person: rules in a table, each a function of plain data.

A rule states a cost in seconds of one call; its ceiling is Amdahl's: what the call would gain if
that cost vanished.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from halftime.base import units
from halftime.records import Finding
from halftime.records.fixes import FixName
from halftime.records.stages import COMPILATION
from halftime.verbs.profile.compile_findings import COMPILE_RULES
from halftime.verbs.profile.evidence import (
    WORTH_SAYING,
    FindingName,
    ProfileEvidence,
    Rule,
    finding_of,
)
from halftime.verbs.profile.facts import Facts, ModuleFacts
from halftime.verbs.profile.habit_findings import HABIT_RULES
from halftime.verbs.profile.lever_findings import LEVER_RULES
from halftime.verbs.profile.memory_findings import MEMORY_RULES

FIRST_CALL_FACTOR = 3.0
FIRST_CALL_SECONDS = 0.02


def findings(evidence: ProfileEvidence) -> tuple[Finding, ...]:
    """All that is worth saying, costliest first; what has no cost in seconds comes last."""
    every = (finding for rule in RULES for finding in rule(evidence))
    return tuple(sorted(every, key=lambda finding: -(finding.seconds or 0.0)))


def _heavy_component(evidence: ProfileEvidence) -> Iterator[Finding]:
    """The next fix of a heavy component: dtype, then memory layout, then compilation."""
    for stage, part in (("vae_decode", "vae"), ("denoise", "denoiser")):
        seconds = evidence.costs(stage, part)
        modules = evidence.facts.of_part(part)
        slow = [
            way
            for way in _slow_ways(part, modules, evidence.facts)
            if way.applies and way.fix not in evidence.refused
        ]
        if slow and seconds >= WORTH_SAYING * evidence.wall_seconds:
            manners = ", ".join(way.words for way in slow)
            names = " and ".join(module.name for module in modules)
            run = "run" if len(modules) > 1 else "runs"
            yield evidence.finding(
                slow[0].name,
                stage,
                seconds,
                slow[0].fix,
                f"the {names} {run} {manners} ({evidence.part_of_call(seconds)})",
            )


class _Way(NamedTuple):
    name: FindingName
    fix: FixName
    words: str
    applies: bool


# part -> what is slow in it, and the fix: two dtypes, memory layout, compilation
_COMPONENT_FIXES: dict[str, tuple[tuple[FindingName, FixName], ...]] = {
    "vae": (
        ("vae-fp32", "vae-dtype"),
        ("vae-fp16", "vae-dtype"),
        ("vae-contiguous", "vae-channels-last"),
        ("vae-eager", "vae-compile"),
    ),
    "denoiser": (
        ("denoiser-fp32", "denoiser-dtype"),
        ("denoiser-fp16", "denoiser-dtype"),
        ("denoiser-contiguous", "denoiser-channels-last"),
        ("denoiser-eager", "denoiser-compile"),
    ),
}


def _slow_ways(part: str, modules: tuple[ModuleFacts, ...], facts: Facts) -> tuple[_Way, ...]:
    in_fp32 = any(module.dtype == "float32" for module in modules)
    to_fp16 = facts.fast_float16 and not any(module.overflows for module in modules)
    in_fp16 = facts.slow_float16 and any(module.dtype == "float16" for module in modules)
    channels_first = any(module.convolutional and not module.channels_last for module in modules)
    eager = any(not module.compiled for module in modules)
    fp32, fp16, contiguous, plain = _COMPONENT_FIXES[part]
    return (
        _Way(
            *fp32,
            f"in fp32 (this device computes faster in {'fp16' if to_fp16 else 'bf16'})",
            in_fp32 and (facts.fast_bfloat16 or to_fp16),
        ),
        _Way(
            *fp16,
            "in fp16, which this processor emulates (26 times slower than fp32 where measured)",
            in_fp16,
        ),
        _Way(*contiguous, "channels-first", channels_first),
        _Way(*plain, "eagerly", eager),
    )


def _first_text_encode(evidence: ProfileEvidence) -> Iterator[Finding]:
    row = evidence.row("encode_prompt")
    first = row.first_call_seconds if row else None
    if row is None or first is None or evidence.first_call_seconds is None:
        return
    extra = first - row.seconds
    if first >= FIRST_CALL_FACTOR * row.seconds and extra >= FIRST_CALL_SECONDS:
        yield finding_of(
            "text-first-call",
            "encode_prompt",
            f"the text encoder's first call costs {units.seconds(first)}, "
            f"{first / row.seconds:.0f}x its steady state of {units.seconds(row.seconds)} "
            "(the ceiling is the first call's)",
            cost=(extra, evidence.first_call_seconds),
            fix=evidence.possible("text-warmup"),
        )


def _first_call(evidence: ProfileEvidence) -> Iterator[Finding]:
    first = evidence.first_call_seconds
    if first is None or first < 1.5 * evidence.wall_seconds or first - evidence.wall_seconds < 0.1:
        return
    extra = first - evidence.wall_seconds
    fix, cause = _cause_of_first_call(evidence)
    yield finding_of(
        "first-call",
        "call",
        f"the first call takes {units.seconds(first)}, "
        f"{first / evidence.wall_seconds:.1f}x a steady one{cause} (the ceiling is the first "
        "call's)",
        cost=(extra, first),
        fix=fix,
    )


def _cause_of_first_call(evidence: ProfileEvidence) -> tuple[FixName | None, str]:
    """What most of the time beyond a steady call went into, and what helps against that."""
    extra, stage = max(
        ((row.first_call_seconds or 0.0) - row.seconds, row.stage) for row in evidence.ledger
    )
    words = f", {units.seconds(extra)} of that in {stage}"
    if stage == COMPILATION:
        return None, (
            f"{words}: compiled code can be kept over restarts (torch.compiler."
            "save_cache_artifacts; `halftime serve --artefacts`), or warm up at every size before "
            "the first request"
        )
    if stage == "encode_prompt":
        return evidence.possible(
            "text-warmup"
        ), f"{words}: run the text encoders once before the first request"
    return None, f"{words}: make one whole call before the first request"


def _glue(evidence: ProfileEvidence) -> Iterator[Finding]:
    bar, glue = evidence.costs("denoise", "progress_bar"), evidence.costs("denoise", "glue")
    if bar + glue >= WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "loop-glue",
            "denoise",
            bar + glue,
            _fix_of_glue(evidence, bar, glue),
            f"progress bar ({units.seconds(bar)}) and Python between the components "
            f"({units.seconds(glue)}) are {units.share((bar + glue) / evidence.wall_seconds)} "
            "of this call",
        )


def _fix_of_glue(evidence: ProfileEvidence, bar: float, glue: float) -> FixName:
    """Against the larger part; against the bar where that alone can be helped."""
    bar_alone = "loop-graph" in evidence.refused and evidence.worth_saying(bar)
    return "progress-bar-off" if bar > glue or bar_alone else "loop-graph"


def _scheduler(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("denoise", "scheduler")
    if seconds >= WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "scheduler-step",
            "denoise",
            seconds,
            "schedule-table",
            f"{evidence.facts.scheduler} takes {evidence.part_of_call(seconds)}; as a table of "
            "coefficients a step is one multiply-add, and `halftime audit` names where it would "
            "make a GPU wait",
        )


def _prompt_encoding(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("encode_prompt")
    if seconds >= 2 * WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "prompt-encoding",
            "encode_prompt",
            seconds,
            "prompt-cache",
            f"encoding the prompt takes {evidence.part_of_call(seconds)}, again for every call "
            "with the same prompt",
        )


# Parts of post-processing that are networks: another kind of output spares none of their time.
_NETWORKS = frozenset({"safety_checker", "vocoder", "text_decoder"})


def _postprocess(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = _converting(evidence)
    if seconds >= 2 * WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "postprocess",
            "postprocess",
            seconds,
            None,
            f"turning what was drawn into pictures takes {evidence.part_of_call(seconds)}, on the "
            "host; ask for output_type='pt' or 'np' where no PIL picture is needed",
        )


def _converting(evidence: ProfileEvidence) -> float:
    """Seconds of post-processing outside of its networks."""
    row = evidence.row("postprocess")
    if row is None:
        return 0.0
    if row.parts:
        return sum(part.seconds for part in row.parts if part.stage not in _NETWORKS)
    only = {span.part for span in evidence.spans if span.stage == "postprocess"}
    return 0.0 if only and only <= _NETWORKS else row.seconds


def _host_waits(evidence: ProfileEvidence) -> Iterator[Finding]:
    for row in evidence.ledger:
        blocked = row.host_blocked_seconds or 0.0
        if blocked >= WORTH_SAYING * evidence.wall_seconds and row.stage == "denoise":
            yield evidence.finding(
                "host-waits",
                row.stage,
                blocked,
                "schedule-table",
                f"the host waits for the device between steps ({evidence.part_of_call(blocked)}); "
                "`halftime audit` names the lines",
            )


def _launch_bound(evidence: ProfileEvidence) -> Iterator[Finding]:
    for row in evidence.ledger:
        gap = row.launch_gap_seconds or 0.0
        if gap >= 5 * WORTH_SAYING * evidence.wall_seconds:
            yield evidence.finding(
                "launch-bound",
                row.stage,
                gap,
                _fix_of_gaps(evidence, row.stage),
                f"in {row.stage} the device idles between kernels for "
                f"{evidence.part_of_call(gap)}: launch-bound",
            )


def _fix_of_gaps(evidence: ProfileEvidence, stage: str) -> FixName:
    """Against launches one by one: the whole loop at once, or else fewer kernels."""
    if stage != "denoise":
        return "vae-compile"
    return "denoiser-compile" if "loop-graph" in evidence.refused else "loop-graph"


def _spinning_threads(evidence: ProfileEvidence) -> Iterator[Finding]:
    busy = evidence.load_average > 0.5 * evidence.cores
    yields = evidence.facts.wait_policy.upper().startswith("PASSIVE")
    if evidence.facts.device == "cpu" and busy and not yields:
        yield finding_of(
            "openmp-spins",
            "call",
            f"the machine has other work (load {evidence.load_average:.1f} on "
            f"{evidence.cores} cores) and OpenMP threads spin while they wait; set "
            "OMP_WAIT_POLICY=PASSIVE (2 to 30 times faster where measured)",
        )


RULES: tuple[Rule, ...] = (
    _heavy_component,
    _first_text_encode,
    _first_call,
    _glue,
    _scheduler,
    _prompt_encoding,
    _postprocess,
    _host_waits,
    _launch_bound,
    *COMPILE_RULES,
    *HABIT_RULES,
    *LEVER_RULES,
    *MEMORY_RULES,
    _spinning_threads,
)
