"""Rules about memory: what grows, what is nearly full, and what moving weights costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from halftime.base import units
from halftime.records import Finding, Transfer, WeightMoves
from halftime.records.session import UNEXPLAINED
from halftime.verbs.profile.evidence import ProfileEvidence, Rule, counted, finding_of
from halftime.verbs.profile.probe import PROBE_STEPS

NEARLY_FULL = 0.9  # of a device's memory: fragments alone may make the next call fail


def _growth(evidence: ProfileEvidence) -> Iterator[Finding]:
    memory = evidence.memory
    if memory is None or not memory.growth_per_call:
        return
    rows = memory.left_behind
    leftovers = "; ".join(
        f"{units.size(row.bytes)} in {row.count} x {row.kind}, made in {row.stage}"
        for row in rows[:2]
    )
    cause = f". A call of {PROBE_STEPS} steps left {leftovers}" if rows else ""
    free = evidence.facts.free_bytes
    calls = f"; what is free lasts for {free // memory.growth_per_call:,} more" if free else ""
    yield finding_of(
        "memory-grows",
        rows[0].stage if rows else "call",
        f"each call holds {units.size(memory.growth_per_call)} more than the one before"
        f"{calls}{cause}: something keeps it (a list in a callback, a hook, a cache without a "
        "bound); keep a detached copy on the host, or let it go",
    )


def _nearly_full(evidence: ProfileEvidence) -> Iterator[Finding]:
    memory = evidence.memory
    if memory is None or not memory.of_device or not memory.capacity_bytes:
        return
    peak, stage = max(((row.peak_bytes or 0), row.stage) for row in memory.stages)
    if peak >= NEARLY_FULL * memory.capacity_bytes:
        yield finding_of(
            "memory-nearly-full",
            stage,
            f"tensors take up to {units.size(peak)} of the device's "
            f"{units.size(memory.capacity_bytes)}, in {stage}: a larger picture or batch, or "
            "fragments, will not fit. In vae_decode tiles help (pipeline.vae.enable_tiling()), "
            "elsewhere fewer bits or `offload`",
            fix=evidence.possible("offload") if not evidence.moves else None,
        )


def _moved_weights(evidence: ProfileEvidence) -> Iterator[Finding]:
    moves = evidence.moves
    waited = sum(move.seconds for move in moves)
    ahead = any(move.ahead for move in moves)
    # what a stream of its own moves costs what it does not hide
    copied = evidence.transfers if ahead else ()
    exposed = sum(row.exposed_seconds for row in copied) if copied else waited
    seconds = min(exposed, evidence.wall_seconds)
    if not moves or not evidence.worth_saying(seconds):
        return
    most = max(moves, key=lambda move: move.seconds)
    total = sum(move.bytes for move in moves if move.to_device)
    count = sum(move.count for move in moves)
    hidden = hidden_words(copied) if copied else _HIDDEN if ahead else ""
    yield evidence.finding(
        "weights-moved",
        most.stage if evidence.row(most.stage) else UNEXPLAINED,
        seconds,
        None,
        f"hooks move {units.size(total)} of weights to the device in each call, in "
        f"{counted(count, 'move')} ({evidence.part_of_call(waited)}, each waited "
        f"for; the {most.component} most, {_manner(most)}){hidden}. "
        f"{_cure(evidence, most)}",
    )


def hidden_words(transfers: Sequence[Transfer]) -> str:
    """How much of the copies of a traced call ran beside kernels."""
    seconds = sum(row.seconds for row in transfers)
    hidden = seconds - sum(row.exposed_seconds for row in transfers)
    share = units.share(hidden / seconds if seconds else 0.0)
    return (
        f"; of the {units.seconds(seconds)} that copies took on the device, "
        f"{units.seconds(hidden)} ({share}) were hidden behind what computes"
    )


_HIDDEN = ", of which prefetching hides a part: `halftime trace` tells how much"


def _manner(move: WeightMoves) -> str:
    often = (
        f"in {move.steps} steps"
        if move.steps > 1
        else "once"
        if move.count == 1
        else f"{move.count} times"
    )
    return f"{units.seconds(move.seconds)} {often}"


def _cure(evidence: ProfileEvidence, most: WeightMoves) -> str:
    memory, free = evidence.memory, evidence.facts.free_bytes
    weights = evidence.facts.weight_bytes
    if memory and memory.of_device and memory.capacity_bytes and weights:
        peak = max((row.peak_bytes or 0) for row in memory.stages)
        if weights + peak < NEARLY_FULL * memory.capacity_bytes:
            return (
                f"All weights ({units.size(weights)}) fit beside the {units.size(peak)} that a "
                f"call takes at most, into {units.size(memory.capacity_bytes)}: without hooks, "
                "pipeline.to(device) once"
            )
    if most.how == "sequential" and weights and free and weights < free:
        return "Whole components move once a call: pipeline.enable_model_cpu_offload()"
    if most.how == "sequential":
        return (
            "Groups of layers that are fetched ahead hide their moves: "
            "pipeline.enable_group_offload(..., use_stream=True)"
        )
    if most.how == "group" and not most.ahead:
        return "With use_stream=True the next group comes while one computes"
    return "Weights in fewer bits (`denoiser-quantize`, `text-quantize`) move in less time, or stay"


MEMORY_RULES: tuple[Rule, ...] = (_growth, _nearly_full, _moved_weights)
