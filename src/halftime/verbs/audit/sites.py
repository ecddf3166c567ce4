"""Where a wait happened: frames of the Python stack, the stage, the step."""

from __future__ import annotations

import linecache
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

from halftime.base import source
from halftime.records.audit import Site
from halftime.records.fixes import FixName
from halftime.upstream import hugging_face
from halftime.verbs.audit.advice import advice_for
from halftime.verbs.audit.rules import DIRECTIONS

_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parent)
_PROFILE = str(Path(__file__).parent.parent / "profile")

# The frame that names a stage: file prefix or function name, innermost first.
_STAGES_BY_FILE = (
    ("scheduling_", "denoise"),
    ("autoencoder", "vae_decode"),
    ("vae", "vae_decode"),
    ("vq_model", "vae_decode"),
    ("transformer_", "denoise"),
    ("unet_", "denoise"),
    ("controlnet", "denoise"),
    ("image_processor", "postprocess"),
    ("video_processor", "postprocess"),
)
_STAGES_BY_FUNCTION = {
    "encode_prompt": "encode_prompt",
    hugging_face.OLD_ENCODE_PROMPT: "encode_prompt",
    "encode_image": "encode_image",
    "prepare_latents": "prepare",
    "retrieve_timesteps": "prepare",
    "set_timesteps": "prepare",
    "decode_latents": "vae_decode",
    "postprocess": "postprocess",
    "postprocess_video": "postprocess",
}


# diffusers' helper for noise: with a CPU generator it draws there and copies.
DRAWS = "randn_tensor"


class Frame(NamedTuple):
    """One frame outside torch."""

    file: str  # whole path
    line: int
    function: str

    @property
    def short(self) -> str:
        """The file as a person reads it."""
        return source.short(self.file)


class SiteKey(NamedTuple):
    """What makes two waits the same site."""

    kind: str
    frame: Frame
    pipeline_frame: str
    in_loop: bool
    in_scheduler: bool
    stage: str
    operation: str


@dataclass
class Sites:
    """The waits of one audit, counted by site and step; `step` is None outside the loop."""

    step: int | None = None
    steps_seen: int = 0
    on_step: Callable[[int], None] = lambda step: None  # called with the number of finished steps
    barless: bool = False  # a loop was known by scheduler.step alone
    in_scheduler: bool = False  # inside of scheduler.step
    recording: bool = True
    counts: dict[SiteKey, dict[int | None, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )

    def record(self, kind: str, operation: str) -> None:
        """A wait happens here and now."""
        if not self.recording:
            return
        frames = _frames(sys._getframe(1))
        inner = frames[0] if frames else Frame("?", 0, "?")
        pipeline = next(
            (frame for frame in frames if Path(frame.file).name.startswith("pipeline_")), None
        )
        where = f"{pipeline.short}:{pipeline.line}" if pipeline else ""
        # diffusers names schedulers' files so; it covers what the loop calls beside `step`.
        in_scheduler_file = Path(inner.file).name.startswith("scheduling_")
        in_loop = self.step is not None
        stage = "denoise" if in_loop else _stage(frames)
        key = SiteKey(
            kind, inner, where, in_loop, self.in_scheduler or in_scheduler_file, stage, operation
        )
        self.counts[key][self.step] += 1

    def begin_loop(self, barless: bool = False) -> None:
        """A denoising loop starts; `barless` where it is known by its scheduler's steps."""
        self.step, self.barless = 0, barless

    def next_step(self) -> None:
        """A step is done."""
        if self.step is not None:
            self.step += 1
            self.steps_seen = max(self.steps_seen, self.step)
            self.on_step(self.step)

    def end_loop(self) -> None:
        """The loop is left."""
        self.step = None

    def as_records(self) -> tuple[Site, ...]:
        """All sites: those of the loop first, then what is not in an installed package, then the
        most frequent.

        Same lines by other operations are one site.
        """
        merged: dict[tuple[str, Frame, bool], list[tuple[SiteKey, dict[int | None, int]]]] = (
            defaultdict(list)
        )
        for key, by_step in self.counts.items():
            merged[key.kind, key.frame, key.in_loop].append((key, by_step))
        installed = {frame.file: source.is_installed(frame.file) for _, frame, _ in merged}
        sites = [
            (installed[frame.file], self._site(entries))
            for (_, frame, _), entries in merged.items()
        ]

        def order(entry: tuple[bool, Site]) -> tuple[object, ...]:
            is_installed, site = entry
            return not site.in_loop, is_installed, -site.count, site.file, site.line

        return tuple(site for _, site in sorted(sites, key=order))

    def _site(self, entries: list[tuple[SiteKey, dict[int | None, int]]]) -> Site:
        key = entries[0][0]
        steps = {step for _, by_step in entries for step in by_step}
        code = linecache.getline(key.frame.file, key.frame.line).strip()
        fix = fix_for(key)
        return Site(
            kind=key.kind,
            direction="h2d" if DIRECTIONS.get(key.kind) == "h2d" else "d2h",
            file=key.frame.short,
            line=key.frame.line,
            function=key.frame.function,
            code=code,
            pipeline_frame=key.pipeline_frame,
            count=sum(sum(by_step.values()) for _, by_step in entries),
            in_loop=key.in_loop,
            # The last steps of many schedulers need less than the others: most steps count as each.
            per_step=key.in_loop and len(steps) >= max(2, self.steps_seen - 1),
            stage=key.stage,
            fix=fix,
            operation=key.operation,
            advice="" if fix else advice_for(key.kind, code),
        )


def fix_for(key: SiteKey) -> FixName | None:
    """The fix that removes a wait, by where it is."""
    if key.frame.function == DRAWS:
        return None  # a table holds no noise: it would be drawn, and copied, all the same
    if key.in_scheduler:
        if key.frame.function == "step" and "/schedulers/scheduling_" not in key.frame.file:
            return None  # a step of the user's own: a table would leave out what else it does
        begins = key.frame.function == "index_for_timestep"
        return "schedule-table" if key.in_loop else "set-begin-index" if begins else None
    if key.in_loop:
        # a wait of the pipeline's own line prevents capture; only its author can take it out
        return None
    return "prompt-cache" if key.stage == "encode_prompt" else None


def _frames(frame: FrameType | None) -> list[Frame]:
    """Frames outside torch and the audit itself, innermost first."""
    frames = []
    while frame is not None:
        file = frame.f_code.co_filename
        if not (
            file.startswith((_TORCH, _OWN, _PROFILE, "<")) or Path(file).name == "contextlib.py"
        ):
            frames.append(Frame(file, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return frames


def innermost() -> Frame:
    """The innermost frame outside torch and the audit."""
    frames = _frames(sys._getframe(1))
    return frames[0] if frames else Frame("?", 0, "?")


def _stage(frames: list[Frame]) -> str:
    for frame in frames:
        by_function = _STAGES_BY_FUNCTION.get(frame.function)
        if by_function:
            return by_function
        name = Path(frame.file).name
        by_file = next(
            (stage for prefix, stage in _STAGES_BY_FILE if name.startswith(prefix)), None
        )
        if by_file:
            return by_file
    return "pipeline"
