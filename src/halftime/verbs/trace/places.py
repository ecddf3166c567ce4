"""What a recorded range means: halftime's own names, or else what diffusers' frames stand for.

In a recording with Python stacks the anchors are the pipeline's call, the scheduler's step and the
module tree: the module that runs between two scheduler steps is the denoiser, whatever its class is
called and whatever wraps it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from halftime.base.ledger import STEP
from halftime.records.stages import PIPELINE_METHODS, Place
from halftime.verbs.trace.read import Events, Ints, Mask, Trace

_DENOISER = Place("denoise", "denoiser")
_SCHEDULER = Place("denoise", "scheduler")
_CALL = re.compile(r"pipeline_(?!parallel)\w+\.py\(\d+\): __call__$")
_STEP = re.compile(r"scheduling_\w+\.py\(\d+\): step$")
_MODULE = re.compile(r"^nn\.Module: ")
_OURS = re.compile(r"halftime/(?P<stage>[\w ()-]+)(?:/(?P<part>[\w ()-]+))?(?:#(?P<step>\d+))?")
# Anything that only a recording of a diffusion pipeline holds; others have U-Nets, autoencoders and
# parallel pipelines too.
_DIFFUSION = re.compile(
    r"(?i:diffus|denois)|UNet\w*(2D|3D|Condition|Motion)|Transformer[23]D|\bDiT|DiT\w*Model"
    r"|Autoencoder(KL|DC|Tiny|Oobleck)|autoencoder_kl|scheduling_(?!policy)\w+\.py\(\d+\): step$"
    r"|pipeline_(?!parallel)\w+\.py\(\d+\): (__call__|encode_prompt)"
    r"|^(unet|transformer|text_encoder(_\d)?|vae([._ ]?decode)?)$"
)

_TEXT = "CLIPText|T5Encoder|UMT5|Gemma|Qwen|Llama|Bert|ChatGLM|Mistral"
_DENOISERS = (
    r"UNet\w*(Condition|Motion)\w*|\w*UNet|\w*Transformer(2D|3D)?\w*Model|\w*DiT\w*Model|"
    r"ControlNet\w*|Prior\w*"
)
_METHODS = tuple(
    (rf"pipeline_\w+\.py\(\d+\): {re.escape(method)}$", Place(stage, ""))
    for method, stage in PIPELINE_METHODS
)


# Python functions ('pipeline_flux.py(312): encode_prompt') and modules ('nn.Module:
# UNet2DConditionModel_0') as torch's profiler records them with_stack and with_modules; user
# annotations by the same names count too. First match wins.
@cache
def _their_names() -> tuple[tuple[re.Pattern[str], Place], ...]:
    rows = (
        *_METHODS,
        (r"pipeline_\w+\.py\(\d+\): _decode_latents$", Place("vae_decode", "")),
        (r"scheduling_\w+\.py\(\d+\): (step|scale_model_input)$", _SCHEDULER),
        (r"scheduling_\w+\.py\(\d+\): set_timesteps$", Place("prepare", "scheduler")),
        (r"(autoencoder|vq_model|vae)\w*\.py\(\d+\): decode$", Place("vae_decode", "vae")),
        (r"(autoencoder|vq_model|vae)\w*\.py\(\d+\): encode$", Place("vae_encode", "vae")),
        (
            r"(image|video)_processor\.py\(\d+\): postprocess(_video)?$",
            Place("postprocess", "image_processor"),
        ),
        (
            r"(image|video)_processor\.py\(\d+\): preprocess(_video)?$",
            Place("prepare", "image_processor"),
        ),
        (rf"nn\.Module: ({_TEXT})\w*_\d+$", Place("encode_prompt", "text_encoder")),
        (rf"nn\.Module: ({_DENOISERS})_\d+$", _DENOISER),
        (
            r"nn\.Module: (Decoder|Encoder|\w*Decoder3d|Autoencoder\w+)_\d+$",
            Place("vae_decode", "vae"),
        ),
        (r"^(unet|transformer|denoiser)$", _DENOISER),
        (r"^(text_encoder(_\d)?|text encode)$", Place("encode_prompt", "text_encoder")),
        (r"^(vae|vae[._ ]?decode)$", Place("vae_decode", "vae")),
    )
    return tuple((re.compile(pattern), home) for pattern, home in rows)


# A stage of a call's beginning that follows one of its end begins another call.
_FIRST_STAGES = frozenset({"prepare", "encode_prompt", "encode_image"})
_LAST_STAGES = frozenset({"vae_decode", "postprocess", "offload"})


@dataclass(frozen=True)
class Range:
    """A host interval that belongs to a stage, in nanoseconds."""

    home: Place
    name: str
    start: int
    end: int
    step: int | None = None


@dataclass(frozen=True)
class Ranges:
    """One call's recognised ranges in order, and its bounds where a frame gives them."""

    ranges: list[Range]
    start: int | None = None
    end: int | None = None


Meaning = tuple[Place, int | None] | None


def is_diffusion(trace: Trace) -> bool:
    """Whether anything recorded says that this is a diffusion pipeline."""
    return any(_DIFFUSION.search(name) for name in trace.names)


def pipeline_of(trace: Trace) -> str:
    """The module of the pipeline that was called, 'pipeline_flux'; '' where no frame says."""
    frames = trace.host.where(trace.named(trace.host, _CALL))
    if not len(frames):
        return ""
    name = trace.names[int(frames.name[_outermost(frames)[0]])]
    return re.split(r"[/\\]", name)[-1].partition(".py")[0]


def within_call(stack: tuple[str, ...]) -> tuple[str, ...]:
    """A stack, innermost first, up to the pipeline's call: who called that is the same for all."""
    outside = next((at for at, frame in enumerate(stack, 1) if _CALL.search(frame)), len(stack))
    return stack[:outside]


def calls(trace: Trace) -> list[Ranges]:
    """The recognised ranges of the main thread, call by call; empty where nothing is recognised."""
    ours = [_ours(name) for name in trace.names]
    if any(ours):
        return _split(_pick(trace, ours, trace.host))
    if not is_diffusion(trace):
        return []  # a language model's layers are nobody's text encoder
    host = trace.host
    frames = _main_thread(host, trace.named(host, _CALL))
    bounds = _outermost(frames)
    theirs = [_theirs(name) for name in trace.names]
    picked = _pick(trace, theirs, host, int(frames.thread[0]) if len(frames) else None)
    picked = _with_denoiser(trace, picked, frames)
    if not len(bounds):
        return _split(picked)
    starts, ends = frames.start[bounds].tolist(), frames.end[bounds].tolist()
    # What follows a call before the next begins is still its own: a decode by hand, say.
    edges = [*starts[1:], np.inf]
    result = []
    for at, (start, end, following) in enumerate(zip(starts, ends, edges, strict=True)):
        low = -np.inf if at == 0 else start
        own = [range_ for range_ in picked if low <= range_.start < following]
        begin = min([start, *(range_.start for range_ in own[:1])])
        result.append(Ranges(own, begin, max([end, *(range_.end for range_ in own)])))
    return [call for call in result if call.ranges]


def _ours(name: str) -> Meaning:
    match = _OURS.fullmatch(name)
    if match is None:
        return None
    step = int(match["step"]) if match["step"] else None
    return Place(match["stage"], match["part"] or ""), step


def _theirs(name: str) -> Meaning:
    home = next((home for pattern, home in _their_names() if pattern.search(name)), None)
    return (home, None) if home else None


def _main_thread(host: Events, mask: Mask) -> Events:
    """Those events that lie on the thread with most of them."""
    events = host.where(mask)
    return events.where(events.thread == _busiest(events.thread)) if len(events) else events


def _busiest(threads: Ints) -> int:
    return int(np.bincount(threads).argmax())


def _outermost(events: Events) -> Ints:
    """Indices of the events that lie in no earlier one."""
    if not len(events):
        return np.zeros(0, np.int64)
    reach = np.maximum.accumulate(events.end)
    return np.flatnonzero(np.concatenate(([True], events.start[1:] >= reach[:-1])))


def _pick(
    trace: Trace, meanings: list[Meaning], host: Events, thread: int | None = None
) -> list[Range]:
    recognised = np.array([meaning is not None for meaning in meanings], bool)
    indices = np.flatnonzero(recognised[host.name]) if len(host) else np.zeros(0, np.int64)
    if not len(indices):
        return []
    main = _busiest(host.thread[indices]) if thread is None else thread
    picked: list[Range] = []
    for index in indices[host.thread[indices] == main].tolist():
        meaning = meanings[host.name[index]]
        assert meaning is not None
        name = trace.names[host.name[index]]
        start, end = int(host.start[index]), int(host.end[index])
        picked.append(Range(meaning[0], name, start, end, meaning[1]))
    return _steps_ended(picked)


def _with_denoiser(trace: Trace, ranges: list[Range], frames: Events) -> list[Range]:
    """The ranges with the modules between scheduler steps as the denoiser.

    A module counts by its own name and number, so that a compiled text encoder, which has the same
    class as a compiled denoiser, stays what it is.
    """
    ends = [range_ for range_ in ranges if range_.name == STEP]
    modules = trace.host.where(trace.named(trace.host, _MODULE))
    if len(ends) < 2 or not len(modules):
        return ranges
    if len(frames):
        modules = modules.where(modules.thread == frames.thread[0])
    modules = modules.where(_outermost(modules))
    between: Counter[str] = Counter()
    for before, after in itertools.pairwise(ends):
        inside = (modules.start >= before.end) & (modules.end <= after.start)
        between.update({trace.names[name] for name in modules.name[inside].tolist()})
    names = {name for name, count in between.items() if 2 * count >= len(ends) - 1}
    last = ends[-1].start
    denoisers = [
        Range(_DENOISER, trace.names[name], start, end)
        for name, start, end in zip(
            modules.name.tolist(), modules.start.tolist(), modules.end.tolist(), strict=True
        )
        if trace.names[name] in names and start < last
    ]
    starts = {(range_.start, range_.end) for range_ in denoisers}
    remaining = [range_ for range_ in ranges if (range_.start, range_.end) not in starts]
    return sorted([*remaining, *denoisers], key=lambda range_: (range_.start, -range_.end))


def _split(ranges: list[Range]) -> list[Ranges]:
    """Ranges without a frame around each call, cut where a call's beginning follows its end."""
    result: list[list[Range]] = []
    ended = True
    for range_ in ranges:
        if not result or (ended and range_.home.stage in _FIRST_STAGES):
            result.append([])
            ended = False
        result[-1].append(range_)
        ended = ended or range_.home.stage in _LAST_STAGES
    return [Ranges(call) for call in result]


def _steps_ended(ranges: list[Range]) -> list[Range]:
    """Name the scheduler's range that ends each denoising step as such.

    Ranges of ours carry the step's number, and the last before it changes ends the step; theirs
    carry the function's name.
    """
    numbered = [i for i, r in enumerate(ranges) if r.home == _SCHEDULER and r.step is not None]
    ends = {
        at
        for at, following in zip(numbered, [*numbered[1:], None], strict=False)
        if following is None or ranges[following].step != ranges[at].step
    }
    ends.update(i for i, range_ in enumerate(ranges) if _STEP.search(range_.name))
    return [replace(range_, name=STEP) if i in ends else range_ for i, range_ in enumerate(ranges)]
