"""What the HTTP side and the engine say to each other: plain data, which also crosses to the worker
as msgpack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from halftime.base.errors import HalftimeError
from halftime.records.serve import PolicyName, Scheduling

DEADLINE_SECONDS = 60.0  # from a request's arrival to its picture, where nothing else is set

OnDrift = Literal["alarm", "exact"]  # what an alarm of the shadow does
OffList = Literal["snap", "refuse"]  # a size or a number of steps that is not offered
FailureKind = Literal[
    "bad_request",
    "deadline",
    "cancelled",
    "crashed",
    "draining",
    "internal",
    "queue_full",  # these two of a cluster, whose drawers are asked after a job was accepted
    "not_ready",
]


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One picture to draw. `None` means: the pipeline's own default."""

    id: str  # unique among the jobs that are in the engine
    prompt: str
    negative_prompt: str | None = None
    width: int  # pixels
    height: int
    steps: int
    guidance: float | None = None
    seed: int
    previews: int = 0  # how many are wanted at most, spread evenly over the steps
    image: bytes | None = None  # PNG, JPEG or WebP to start from; brought to width x height
    mask: bytes | None = None  # PNG, grey, of that size: white is drawn anew; with `image` only
    # pictures to draw from, where the pipeline takes several; in place of `image`
    references: tuple[bytes, ...] = ()
    strength: float | None = None  # 0 keeps the picture, 1 draws anew; with `image` only
    frames: int | None = None  # of a video; a picture has none
    lora: str | None = None  # by name
    lora_scale: float = 1.0
    off_list: OffList | None = None  # None: as the engine's settings say
    weight: float = 1.0  # turns of its client for one of another
    deadline: float | None = None  # time.monotonic(), which no change of the clock moves
    client: str = ""  # who asks: the name of a key, or an address
    profile: bool = False  # drawn alone, and its Final carries a session


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The picture is being drawn, with `batch_size - 1` others. Comes again after a crash that is
    retried."""

    id: str
    queue_seconds: float
    batch_size: int


class Preview(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The picture as the model foresees it after `step` of the steps."""

    id: str
    index: int = 0  # from 0, without gaps; whoever hands it to the client counts
    step: int  # from 1
    width: int
    height: int
    pixels: bytes  # uint8, height x width x 3, RGB


class Stepped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A video has got so far; pictures have previews instead."""

    id: str
    step: int  # from 1
    steps: int


class Final(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The picture. The engine may have snapped its size or steps to what the certificate lists: see
    them here."""

    id: str
    width: int
    height: int
    steps: int
    pixels: bytes  # uint8, height x width x 3, RGB; of a video frame after frame
    stages: dict[str, float]  # stage -> seconds of the batch's call, adding up to compute_seconds
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    # of compute_seconds, where pictures share a step and not a call: this one's part of each step
    own_seconds: float | None = None
    session: bytes | None = None  # JSON of a halftime Session, where the job asked to be profiled
    frames: int | None = None  # of a video


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """There will be no picture. `retryable`: the same request may succeed later, after so many
    seconds where that is known."""

    id: str
    kind: FailureKind
    message: str
    retryable: bool
    retry_after: float | None = None


Event = Started | Preview | Stepped | Final | JobFailed


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run one worker. Seconds and bytes; empty tuples and None leave the choice to the
    engine."""

    model: str | None = None  # as halftime.load_pipeline takes it; None for the bundled one
    recipe: str | None = None  # path of a plan's or recipe's TOML file
    device: str | None = None
    dtype: str | None = None
    scheduler: str | None = None
    # how the model is loaded, as a workload says it
    variant: str | None = None
    revision: str | None = None
    config: str | None = None
    custom_pipeline: str | None = None
    lora: tuple[str, ...] = ()  # FILE or FILE:WEIGHT, on for every picture
    sizes: tuple[tuple[int, int], ...] = ()  # (width, height); empty: the pipeline's own
    steps: tuple[int, ...] = (10, 20, 30)
    # of a job that has none; None: the bundled model's own, or the pipeline's
    guidance: float | None = None
    max_batch: int = 2
    batch_window_seconds: float = 0.0  # how long the first of a batch waits for company
    queue_limit: int = 32  # pictures
    workers: int = 1  # processes, each with its own pipeline; on several GPUs one each
    # batches in a row that fail, or come out black, before a worker is put to the test
    failure_limit: int = 3
    deadline_seconds: float | None = DEADLINE_SECONDS  # of a job that has none
    # for previews: 'bundled', a folder or a hub id; None: no previews
    tiny_vae: str | None = "bundled"
    img2img: bool = True  # offered where the pipeline has such a sibling
    inpaint: bool = True  # the same
    # of a pipeline that makes videos: how many to offer; empty: the pipeline's own
    frames: tuple[int, ...] = ()
    fps: float = 16.0  # frames a second of its files
    loras: str | None = None  # a folder of *.safetensors, offered by their names
    off_list: OffList = "refuse"
    threads: int | None = None  # torch's, in the worker; None: all cores
    memory_growth_bytes: int = 512 * 2**20  # over the last runs; more drops the graphs
    max_retries: int = 1  # of a picture whose worker died
    # workers that died in a row without a picture before the engine gives up
    restart_limit: int = 5
    scheduling: Scheduling = "call"  # 'step': where the pipeline's loop allows it
    policy: PolicyName = "head-start"  # whose step is next
    aside_bytes: int = 2**30  # of what requests hold between two steps
    shadow: float = 0.0  # share of the pictures that are drawn again without the recipe
    on_drift: OnDrift = "alarm"  # 'exact': go on without the recipe's approximate fixes
    exact: bool = False  # without them from the start
    artefacts: str | None = None  # a file where compiled code is kept for the next start


@dataclass
class PreviewCounter:
    """Numbers the previews of one job from 0 without gaps, however many workers draw it."""

    count: int = 0

    def numbered(self, event: Event) -> Event:
        """The event, with its index where it is a preview."""
        if not isinstance(event, Preview):
            return event
        numbered = msgspec.structs.replace(event, index=self.count)
        self.count += 1
        return numbered


class NotAccepted(HalftimeError):
    """A job was not accepted; nothing of it was begun."""


class QueueFull(NotAccepted):
    """The queue is full; `retry_after` is when there should be room, in seconds, from measured
    service times."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(NotAccepted):
    """The engine is starting, warming, draining or has failed. `ready_in` is when it should be
    ready, in seconds, where that can be told."""

    def __init__(self, message: str, ready_in: float | None = None) -> None:
        super().__init__(message)
        self.ready_in = ready_in


class Refused(NotAccepted):
    """The job asks for what the certificate does not list, or what this pipeline cannot do; `param`
    names the parameter at fault, where it is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
