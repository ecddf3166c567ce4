"""Previews: the denoised estimate (x0) in the middle of a run, from what the scheduler was given,
through the tiny VAE; in a thread, and dropped rather than waited for.

Four parameterisations cover diffusers' schedulers; `sample` is what `step` takes, before any
scaling of the input:

| family | sample | schedulers |
|---|---|---|
| flow | (1 - sigma) x0 + sigma e, the model gives e - x0 | FlowMatch... |
| exploding | x0 + sigma e | Euler, Heun, LMS, KDPM2 |
| preserving by sigma | alpha x0 + sigma' e, alpha = 1 / sqrt(1 + sigma^2), sigma' = sigma alpha |
DPM++, UniPC, DEIS |
| preserving by timestep | sqrt(a) x0 + sqrt(1 - a) e, a = alphas_cumprod[t] | DDIM, DDPM, PNDM,
LCM, TCD |

Source: Karras et al. 2022 (EDM), table 1; Salimans and Ho 2022 for v; Lipman et al. 2023 for flows.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from halftime.upstream import hugging_face, pytorch
from halftime.verbs.serve.messages import Job, Preview
from halftime.verbs.serve.streams import Aside, queued_so_far

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DiffusionPipeline, SchedulerMixin

logger = logging.getLogger("halftime.verbs.serve.preview")
_NICENESS = 10  # the thread yields to the denoising where both want the core


def preview_steps(total: int, count: int) -> tuple[int, ...]:
    """The steps, from 1, after which to show a preview: evenly spread, never the last, which is the
    picture itself."""
    marks = {round(total * (index + 1) / (count + 1)) for index in range(count)}
    return tuple(sorted(mark for mark in marks if 0 < mark < total))


# ---- the estimate


class NoiseLevel(NamedTuple):
    """sample = signal * x0 + noise * e."""

    signal: float
    noise: float


def denoised(
    scheduler: SchedulerMixin,
    model_output: torch.Tensor,
    timestep: object,
    sample: torch.Tensor,
    index: int | None,
) -> torch.Tensor | None:
    """x0 as the model sees it, in the shape of `sample`; None for a scheduler or a prediction that
    is not known.

    `index` is the scheduler's step index before the step, None for those that count by timestep.
    """
    kind = getattr(scheduler.config, "prediction_type", None) or (
        "flow_prediction" if _is_flow(scheduler) else None
    )
    level = noise_level(scheduler, timestep, index)
    if level is None or kind not in _FORMULAS:
        return None
    if _is_flow(scheduler):
        kind = "flow_prediction"
    # a learned variance comes in the second half of the channels
    output = model_output[:, : sample.shape[1]]
    estimate: torch.Tensor = _FORMULAS[kind](level, output.float(), sample.float())
    same_dtype: torch.Tensor = estimate.to(sample.dtype)
    return same_dtype


def _from_epsilon(level: NoiseLevel, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return (sample - level.noise * output) / level.signal


def _from_v(level: NoiseLevel, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    # v = (signal e - noise x0) / norm with signal and noise as in the preserving family, whatever
    # the sample's scale.
    norm = math.hypot(level.signal, level.noise)
    return (level.signal * sample / norm - level.noise * output) / norm


def _from_flow(level: NoiseLevel, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return sample - level.noise * output


def _from_sample(level: NoiseLevel, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return output


_FORMULAS: dict[str, Callable[[NoiseLevel, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "epsilon": _from_epsilon,
    "v_prediction": _from_v,
    "flow_prediction": _from_flow,
    "sample": _from_sample,
}


def noise_level(
    scheduler: SchedulerMixin, timestep: object, index: int | None
) -> NoiseLevel | None:
    """How much of the sample is signal and how much is noise, before this step; None where that is
    not known.

    EDM's own schedulers are left out: their model output is preconditioned by the pipeline's
    sigma_data.
    """
    if type(scheduler).__name__.startswith("EDM"):
        return None
    if index is not None and hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[min(index, len(scheduler.sigmas) - 1)])
        if _is_flow(scheduler):
            return NoiseLevel(1.0 - sigma, sigma)
        if hugging_face.scales_by_variance(scheduler):
            signal = (1.0 + sigma**2) ** -0.5
            return NoiseLevel(signal, sigma * signal)
        return NoiseLevel(1.0, sigma)
    if hasattr(scheduler, "alphas_cumprod") and timestep is not None:
        alpha = float(scheduler.alphas_cumprod[int(float(timestep))])  # type: ignore[arg-type]
        return NoiseLevel(alpha**0.5, (1.0 - alpha) ** 0.5)
    return None


def _is_flow(scheduler: SchedulerMixin) -> bool:
    return type(scheduler).__name__.startswith("Flow") or bool(
        getattr(scheduler.config, "use_flow_sigmas", False)
    )


@dataclass(frozen=True)
class SeenStep:
    """What a step was given, in copies that nobody changes, and when they are there.

    The estimate is made of them by the thread of the previews: it reads the noise level, which on a
    GPU may wait for it.
    """

    scheduler: SchedulerMixin
    model_output: torch.Tensor
    timestep: object
    sample: torch.Tensor
    index: int | None
    ready: torch.cuda.Event | None = None

    def row(self, row: int) -> SeenStep:
        """The part of one picture. A slice, since an index would be copied to the device."""
        output, sample = (
            tensor[row : row + 1].detach().clone() for tensor in (self.model_output, self.sample)
        )
        on_cuda = sample.device.type == "cuda"
        ready = queued_so_far(sample.device) if on_cuda else None
        return replace(self, model_output=output, sample=sample, ready=ready)

    def estimate(self) -> torch.Tensor | None:
        """x0, or None where it is not known; may wait for the device."""
        return denoised(self.scheduler, self.model_output, self.timestep, self.sample, self.index)


# ---- its pixels


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
    has_units = tiny.device.type == "cpu" and pytorch.has_avx512_bf16()
    if has_units and tiny.dtype == torch.float32:
        tiny = tiny.to(torch.bfloat16)
    return tiny.to(memory_format=torch.channels_last)


def decode(tiny: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, channels, h, w] as the denoiser has them -> uint8 [height, width, 3].

    The scaling is what a pipeline would do with this VAE in the place of its own.
    """
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
        return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous()


# ---- the thread


@dataclass
class _Wish:
    """A preview of one picture that is waiting for the decoder."""

    job: Job
    step: int
    input: SeenStep


@dataclass
class Previews:
    """The thread that decodes. At most one wish a picture is pending: a newer one replaces it.

    A preview is never sent after `close` was called for its picture, so a final comes last.
    """

    tiny: AutoencoderTiny
    send: Callable[[Preview], None]
    unpack: Callable[[torch.Tensor, int, int], torch.Tensor | None]
    dropped: int = 0
    _pending: list[_Wish] = field(default_factory=list)
    _open: set[str] = field(default_factory=set)  # pictures that are being drawn
    _busy: bool = False
    _paused: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        threading.Thread(target=self._work, name="previews", daemon=True).start()

    def open(self, jobs: Sequence[Job]) -> None:
        """These pictures are being drawn from now on."""
        with self._changed:
            self._open.update(job.id for job in jobs)

    def close(self, job_id: str) -> None:
        """No more previews of this picture."""
        with self._changed:
            self._open.discard(job_id)
            self._pending = [wish for wish in self._pending if wish.job.id != job_id]
            self._changed.notify_all()

    def wish(self, jobs: Sequence[Job], step: int, inputs: Sequence[SeenStep]) -> None:
        """Ask for previews, of each job from its part of the step. Never waits."""
        wishes = [_Wish(job, step, part) for job, part in zip(jobs, inputs, strict=True)]
        names = {job.id for job in jobs}
        with self._changed:
            unrelated = [wish for wish in self._pending if wish.job.id not in names]
            self.dropped += len(self._pending) - len(unrelated)
            self._pending = [*unrelated, *wishes]
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """How many were dropped since the last call."""
        with self._changed:
            dropped, self.dropped = self.dropped, 0
        return dropped

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is decoded within the block: what is captured there is captured alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._paused = True
        try:
            yield
        finally:
            with self._changed:
                self._paused = False
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until nothing is pending; for warm-up and tests."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._busy)

    def _work(self) -> None:
        # per thread on Linux; elsewhere it does without
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        aside = Aside(self.tiny.device)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._pending) and not self._paused)
                wish = self._pending.pop(0)
                self._busy = True
            try:
                self._show(wish, aside)
            except Exception:  # such as memory that ran out: the pictures go on without it
                logger.warning("a preview could not be computed", exc_info=True)
                self.dropped += 1
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _pixels(self, wish: _Wish) -> torch.Tensor | None:
        with torch.inference_mode():
            estimate = wish.input.estimate()
            if estimate is None:
                return None
            latents = self.unpack(estimate, wish.job.width, wish.job.height)
            return None if latents is None else decode(self.tiny, latents)

    def _show(self, wish: _Wish, aside: Aside) -> None:
        job = wish.job
        if job.id not in self._open:
            return
        pixels = aside.on_host(functools.partial(self._pixels, wish), wish.input.ready)
        if pixels is None:
            return
        height, width = pixels.shape[:2]
        with self._changed:
            if job.id not in self._open:
                return
            self.send(
                Preview(
                    id=job.id,
                    step=wish.step,
                    width=width,
                    height=height,
                    pixels=pixels.numpy().tobytes(),
                )
            )
