"""What the server's engine says of itself: its certificate, its state, and its troubles."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record
from halftime.records.environment import Environment

Branch = Literal["guided", "unguided"]
Mode = Literal["text2img", "img2img", "inpaint"]
Scheduling = Literal["call", "step"]
# of scheduling at the step
PolicyName = Literal["head-start", "shortest", "deadline", "fair", "first-come"]
State = Literal["starting", "warming", "ready", "draining", "stopped", "failed"]


class WarmEntry(Record, frozen=True, kw_only=True):
    """One kind of call that ran during warm-up, and what it took each time, in seconds.

    `first_seconds` holds whatever was compiled, captured or allocated; `second_seconds` is the same
    call again.
    """

    width: int
    height: int
    batch: int
    steps: int
    guidance: Branch
    mode: Mode = "text2img"
    prompt_tokens: int | None = None  # None where the length of a prompt changes no shape
    previews: bool = False
    lora: str | None = None
    frames: int | None = None  # of a video
    first_seconds: float
    second_seconds: float


class Graphs(Record, frozen=True, kw_only=True):
    """What dynamo had done at a moment; zeros where it was never loaded."""

    unique_graphs: int = 0
    calls_captured: int = 0
    graph_breaks: int = 0


class RecompileAfterReady(Record, frozen=True, kw_only=True):
    """A graph that was compiled although the certificate said that none would be."""

    guard: str  # in plain words
    when: str  # ISO 8601, UTC
    request: str = ""  # id of a picture of the batch that met it


class ColdStartTimes(Record, frozen=True, kw_only=True):
    """Seconds since the worker's process started; `artefacts` is where compiled code came from."""

    loaded_seconds: float
    ready_seconds: float
    artefacts: str | None = None


# Schema history
# 1  2026-11  first
class Certificate(Record, frozen=True, kw_only=True):
    """What is offered, and the proof that all of it ran before the first request.

    `graphs_before` to `graphs_first` is what the first pass compiled; `graphs_second` equals
    `graphs_first`, or there is no certificate.
    """

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""  # ISO 8601, UTC
    model: str = ""
    pipeline: str = ""  # class name
    sizes: tuple[tuple[int, int], ...]  # (width, height), pixels
    steps: tuple[int, ...]
    schedulers: tuple[str, ...] = ()  # class names
    # buckets; empty where the length of a prompt changes no shape
    prompt_tokens: tuple[int, ...] = ()
    most_prompt_tokens: int | None = None  # longer prompts are cut by the tokenizer
    guidance: tuple[Branch, ...] = ()
    default_guidance: float | None = None
    batch_sizes: tuple[int, ...] = (1,)
    previews: bool = False
    img2img: bool = False
    inpaint: bool = False  # within a mask
    references: int = 1  # pictures that a request may bring at most
    loras: tuple[str, ...] = ()  # names
    frames: tuple[int, ...] = ()  # of a video; empty where pictures are drawn
    fps: float | None = None  # of its file
    needs_picture: bool = False  # to start from: it draws from nothing else
    entries: tuple[WarmEntry, ...] = ()
    passes: int = 0  # over the entries, until dynamo stood still
    graphs_before: Graphs = Graphs()
    graphs_first: Graphs = Graphs()
    graphs_second: Graphs = Graphs()
    cold_start: ColdStartTimes | None = None
    environment: Environment | None = None
    recipe_hash: str | None = None
    fixes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recompiles_after_ready: tuple[RecompileAfterReady, ...] = ()
    scheduling: Scheduling = "call"  # what a worker decides anew: the next call, or the next step
    scheduling_why: str = ""  # what was shown for it, or why it is not at the step
    step_sizes: tuple[int, ...] = (1,)  # pictures in one forward pass


class WorkerStatus(Record, frozen=True, kw_only=True):
    """One of the engine's workers, or its place while the next one starts."""

    number: int  # from 0
    state: State
    why: str = ""
    pid: int | None = None
    resident_bytes: int | None = None
    running: int = 0  # pictures that it draws
    restarts: int = 0


class EngineStatus(Record, frozen=True, kw_only=True):
    """The engine now: counts since it was made, bytes of the worker process."""

    state: State
    why: str = ""  # what it is doing, or what is wrong, as a sentence
    certificate: Certificate | None = None
    queue_depth: int = 0  # pictures that wait
    running: int = 0  # pictures being drawn
    workers: tuple[WorkerStatus, ...] = ()
    workers_restarted: int = 0  # for whatever reason
    workers_failing: int = 0  # of them, since a test picture failed, too
    workers_hanging: int = 0  # of them, since they gave no sign of life
    black: int = 0  # pictures that came out black
    shadowed: int = 0  # pictures that were drawn again without the recipe
    shadow_different: int = 0  # of those, which differed visibly
    recompiles: int = 0  # after ready
    alarms: tuple[str, ...] = ()  # what an operator must look at, newest last
    alarm_count: int = 0  # since the engine was made; `alarms` are the newest of them
    resident_bytes: int | None = None  # of all workers
    memory_drops: int = 0  # times that memory grew so much that graphs were dropped
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    rejected: int = 0  # the queue was full
    previews_sent: int = 0
    previews_dropped: int = 0  # the decoder was still busy with the one before
    seconds_per_picture: float | None = None  # measured, recent; what Retry-After is computed from
    ready_in: float | None = None  # seconds, by what the last start took
    worker_pid: int | None = None
