"""Previews: denoised estimates through the tiny VAE, in a thread of their own, dropped rather than
waited for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from halftime.upstream import hugging_face
from halftime.verbs.serve.messages import Job, Preview

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import AutoencoderTiny, DiffusionPipeline

_NICENESS = 10  # the thread yields to the denoising where both want the core


def preview_steps(total: int, wanted: int) -> tuple[int, ...]:
    """The steps, from 1, after which to show a preview: evenly spread, never the last, which is the
    picture itself."""
    marks = {round(total * (index + 1) / (wanted + 1)) for index in range(wanted)}
    return tuple(sorted(mark for mark in marks if 0 < mark < total))


class Unpacker:
    """The latents of one picture of a pipeline, in the form that its VAE reads."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor | None:
        """[1, channels, h, w]; None for a layout that is not known."""
        if latents.ndim == 4:
            return latents
        if latents.ndim != 3:
            return None
        return hugging_face.unpacked_latents(self._pipeline, latents, width, height)


def quickened(tiny: AutoencoderTiny) -> AutoencoderTiny:
    """The tiny VAE as fast as it goes without compiling: a preview may be three grey levels off, a
    final may not.

    On a CPU with bfloat16 units (EPYC, one thread, 128 px): 20.1 ms in fp32, 11.8 channels_last,
    5.2 with bf16 too.
    """
    import torch

    from halftime.upstream import pytorch

    on_cpu = tiny.device.type == "cpu"
    has_units = on_cpu and pytorch.has_avx512_bf16()
    made: AutoencoderTiny = (
        tiny.to(torch.bfloat16) if has_units and tiny.dtype == torch.float32 else tiny
    )
    return made.to(memory_format=torch.channels_last)


def decode(tiny: AutoencoderTiny, latents: torch.Tensor) -> np.ndarray:
    """Latents [1, channels, h, w] as the denoiser has them -> uint8 [height, width, 3].

    The scaling is what a pipeline would do with this VAE in the place of its own.
    """
    import torch

    config = tiny.config
    scale, shift = (
        float(config.scaling_factor or 1.0),
        float(getattr(config, "shift_factor", None) or 0.0),
    )
    with torch.inference_mode():
        image: torch.Tensor = tiny.decode(
            latents.to(tiny.dtype) / scale + shift, return_dict=False
        )[0]
        pixels = (image[0].float().clamp(-1, 1) + 1) * 127.5
        array: np.ndarray = (
            pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        )
    return array


@dataclass
class _Wish:
    """A preview of one picture that is waiting for the decoder. `latents` are a copy."""

    job: Job
    step: int
    latents: torch.Tensor


@dataclass
class Previews:
    """The thread that decodes. At most one call's worth of wishes is pending: newer ones replace
    them.

    A preview is never sent after `close` was called for its picture, so a final comes last.
    """

    tiny: AutoencoderTiny
    send: Callable[[Preview], None]
    unpack: Callable[[torch.Tensor, int, int], torch.Tensor | None]
    dropped: int = 0
    _pending: list[_Wish] = field(default_factory=list)
    _sent: dict[str, int] = field(default_factory=dict)  # open picture -> previews sent
    _busy: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        threading.Thread(target=self._work, name="previews", daemon=True).start()

    def open(self, jobs: Sequence[Job]) -> None:
        """These pictures are being drawn from now on."""
        with self._changed:
            self._sent.update({job.id: 0 for job in jobs})

    def close(self, job_id: str) -> None:
        """No more previews of this picture."""
        with self._changed:
            self._sent.pop(job_id, None)

    def wish(self, jobs: Sequence[Job], step: int, latents: torch.Tensor) -> None:
        """Ask for previews; `latents` [len(jobs), ...] must not be changed any more. Never
        waits."""
        wishes = [_Wish(job, step, latents[index : index + 1]) for index, job in enumerate(jobs)]
        with self._changed:
            self.dropped += len(self._pending)
            self._pending = wishes
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """How many were dropped since the last question."""
        with self._changed:
            dropped, self.dropped = self.dropped, 0
        return dropped

    def flush(self) -> None:
        """Wait until nothing is pending; for warm-up and tests."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._busy)

    def _work(self) -> None:
        # per thread on Linux; elsewhere it does without
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._pending))
                wish = self._pending.pop(0)
                self._busy = True
            try:
                self._show(wish)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _show(self, wish: _Wish) -> None:
        job = wish.job
        if job.id not in self._sent:
            return
        latents = self.unpack(wish.latents, job.width, job.height)
        if latents is None:
            return
        pixels = decode(self.tiny, latents)
        height, width = pixels.shape[:2]
        with self._changed:
            index = self._sent.get(job.id)
            if index is None:
                return
            self._sent[job.id] = index + 1
            self.send(
                Preview(
                    id=job.id,
                    index=index,
                    step=wish.step,
                    width=width,
                    height=height,
                    pixels=pixels.tobytes(),
                )
            )
