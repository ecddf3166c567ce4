"""What a recorded range means: halftime's own names, or else diffusers' functions and classes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from halftime.base.ledger import STEP
from halftime.records.stages import Place
from halftime.verbs.trace.read import Ints, Trace

PREFIX = "halftime/"
_SCHEDULER = Place("denoise", "scheduler")
_ENDS_STEP = re.compile(r"scheduling_\w+\.py\(\d+\): step$")
_OURS = re.compile(r"halftime/(?P<stage>[\w ()-]+)(?:/(?P<part>[\w ()-]+))?(?:#(?P<step>\d+))?")

_TEXT = "CLIPText|T5Encoder|UMT5|Gemma|Qwen|Llama|Bert|ChatGLM|Mistral"
_DENOISERS = (
    r"UNet\w*(Condition|Motion)\w*|\w*UNet|\w*Transformer(2D|3D)?\w*Model|\w*DiT\w*Model|"
    r"ControlNet\w*|Prior\w*"
)

# Python functions ('pipeline_flux.py(312): encode_prompt') and modules ('nn.Module:
# UNet2DConditionModel_0') as torch's profiler records them with_stack and with_modules; user
# annotations by the same names count too. First match wins.
_THEIRS: tuple[tuple[re.Pattern[str], Place], ...] = tuple(
    (re.compile(pattern), Place(stage, part))
    for pattern, stage, part in (
        (r"pipeline_\w+\.py\(\d+\): _?encode_prompt$", "encode_prompt", ""),
        (
            r"pipeline_\w+\.py\(\d+\): (prepare_latents|check_inputs|prepare_image_latents)$",
            "prepare",
            "",
        ),
        (r"pipeline_\w+\.py\(\d+\): (decode_latents|_decode_latents)$", "vae_decode", ""),
        (r"scheduling_\w+\.py\(\d+\): (step|scale_model_input)$", "denoise", "scheduler"),
        (r"scheduling_\w+\.py\(\d+\): set_timesteps$", "prepare", "scheduler"),
        (r"(autoencoder|vq_model|vae)\w*\.py\(\d+\): decode$", "vae_decode", "vae"),
        (r"(autoencoder|vq_model|vae)\w*\.py\(\d+\): encode$", "vae_encode", "vae"),
        (
            r"(image|video)_processor\.py\(\d+\): postprocess(_video)?$",
            "postprocess",
            "image_processor",
        ),
        (rf"nn\.Module: ({_TEXT})\w*_\d+$", "encode_prompt", "text_encoder"),
        (rf"nn\.Module: ({_DENOISERS})_\d+$", "denoise", "denoiser"),
        (r"nn\.Module: (Decoder|Encoder|\w*Decoder3d)_\d+$", "vae_decode", "vae"),
        (r"^(unet|transformer|denoiser)$", "denoise", "denoiser"),
        (r"^(text_encoder(_\d)?|text encode)$", "encode_prompt", "text_encoder"),
        (r"^(vae|vae[._ ]?decode)$", "vae_decode", "vae"),
    )
)


@dataclass(frozen=True)
class Range:
    """A host interval that belongs to a stage, in nanoseconds."""

    home: Place
    name: str
    start: int
    end: int
    step: int | None = None


def ranges(trace: Trace) -> list[Range]:
    """All recognised ranges of the busiest thread in order: halftime's own, or else diffusers'."""
    ours = [_ours(name) for name in trace.names]
    own = np.array([entry is not None for entry in ours], bool)
    if own.any() and own[trace.host.name].any():
        return _pick(trace, np.flatnonzero(own[trace.host.name]), ours)
    theirs = [_theirs(name) for name in trace.names]
    named = np.array([entry is not None for entry in theirs], bool)
    return _pick(
        trace,
        np.flatnonzero(named[trace.host.name]) if len(trace.host) else np.zeros(0, np.int64),
        theirs,
    )


Meaning = tuple[Place, int | None] | None


def _ours(name: str) -> Meaning:
    match = _OURS.fullmatch(name)
    if match is None:
        return None
    step = int(match["step"]) if match["step"] else None
    return Place(match["stage"], match["part"] or ""), step


def _theirs(name: str) -> Meaning:
    home = next((home for pattern, home in _THEIRS if pattern.search(name)), None)
    return (home, None) if home else None


def _pick(trace: Trace, indices: Ints, meanings: list[Meaning]) -> list[Range]:
    threads = trace.host.thread[indices]
    if not len(threads):
        return []
    main = np.bincount(threads).argmax()
    picked: list[Range] = []
    for index in indices[threads == main]:
        entry = meanings[trace.host.name[index]]
        assert entry is not None
        name = trace.names[trace.host.name[index]]
        picked.append(
            Range(
                entry[0], name, int(trace.host.start[index]), int(trace.host.end[index]), entry[1]
            )
        )
    return _steps_ended(picked)


def _steps_ended(ranges: list[Range]) -> list[Range]:
    """Name the scheduler's range that ends each denoising step as such.

    Ranges of ours carry the step's number, and the last of a number ends it; theirs carry the
    function's name.
    """
    last = {
        range_.step: i
        for i, range_ in enumerate(ranges)
        if range_.home == _SCHEDULER and range_.step is not None
    }
    by_function = (i for i, range_ in enumerate(ranges) if _ENDS_STEP.search(range_.name))
    ends = {*last.values(), *by_function}
    return [replace(range_, name=STEP) if i in ends else range_ for i, range_ in enumerate(ranges)]
