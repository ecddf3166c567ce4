"""Pictures from a pipeline, one a prompt with its own seed; harmless variations for the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import cycle, islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from halftime import bundled
from halftime.base.progress import Progress, silent
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.change import patched, progress_bars
from halftime.records import Workload
from halftime.verbs.verify.floor import RERUN
from halftime.verbs.verify.pictures import UNSORTED, Latent, Picture, PictureSet, from_floats

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class PicturePrompt(NamedTuple):
    """A prompt, the class of its content, and the name of its picture."""

    text: str
    content_class: str = UNSORTED
    name: str = ""


def prompt_set(workload: Workload, count: int | None) -> list[PicturePrompt]:
    """`count` prompts: the workload's own in turn, or the bundled test set with its classes."""
    if workload.prompts == Workload().prompts:
        prompts = [(p.text, p.content_class) for p in bundled.prompts()[: count or 50]]
    else:
        texts = islice(cycle(workload.prompts), count or len(workload.prompts))
        prompts = [(text, UNSORTED) for text in texts]
    return [PicturePrompt(*prompt, f"{i:04d}") for i, prompt in enumerate(prompts)]


def render(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    label: str,
    *,
    batch: int = 1,
    progress: Progress = silent,
    enough: Callable[[], bool] = lambda: False,
) -> PictureSet:
    """One picture a prompt; picture i has the seed `workload.seed` + i, whatever its batch.

    After the first, `enough` is asked before each call, and ends the set where it says so.
    """
    pictures: list[Picture] = []
    with progress_bars(pipeline, disable=True), _recorded_latents(pipeline) as latents:
        for start in range(0, len(prompts), batch):
            if pictures and enough():
                break
            progress(label, start, len(prompts))
            pictures += _call(pipeline, workload, prompts[start : start + batch], start, latents)
    progress(label, len(prompts), len(prompts))
    return PictureSet(label, tuple(pictures))


def _call(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    start: int,
    latents: list[Latent],
) -> list[Picture]:
    batch = msgspec.structs.replace(
        workload,
        prompts=tuple(p.text for p in prompts),
        seed=workload.seed + start,
        images_per_prompt=1,
    )
    latents.clear()
    images = pipeline(**call_arguments(pipeline, batch) | {"output_type": "np"}).images
    # A pipeline that decodes in another way has no latent a picture.
    by_picture = latents if len(latents) == len(prompts) else [None] * len(prompts)
    return [
        from_floats(
            np.asarray(image), p.name or f"{start + i:04d}", p.content_class, p.text, by_picture[i]
        )
        for i, (p, image) in enumerate(zip(prompts, images, strict=True))
    ]


@contextmanager
def _recorded_latents(pipeline: DiffusionPipeline) -> Iterator[list[Latent]]:
    """What goes into `vae.decode`, one entry a picture; empty for a pipeline without it."""
    latents: list[Latent] = []
    vae = getattr(pipeline, "vae", None)
    decode = getattr(vae, "decode", None)
    if decode is None:
        yield latents
        return

    def recorded(z, *args, **kwargs):  # type: ignore[no-untyped-def]
        latents.extend(z.detach().float().cpu().numpy())
        return decode(z, *args, **kwargs)

    with patched(vae, "decode", recorded):
        yield latents


# ---- what should change nothing


@contextmanager
def _other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else before // 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Convolutions and attention by other code: oneDNN off and plain attention."""
    with ExitStack() as stack:
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def floor_sets(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[PicturePrompt],
    *,
    progress: Progress = silent,
    enough: Callable[[], bool] = lambda: False,
) -> dict[str, PictureSet]:
    """The same configuration again: as it is, in batches of two, other threads, other kernels.

    Those for which there is no time, as `enough` says, are left out.
    """
    variations: dict[str, tuple[AbstractContextManager[object], int]] = {
        RERUN: (nullcontext(), 1),
        "batch": (nullcontext(), 2),
        "threads": (_other_threads(), 1),
        "kernels": (_other_kernels(), 1),
    }
    sets = {}
    for name, (context, batch) in variations.items():
        if enough():
            break
        with context:
            sets[name] = render(
                pipeline,
                workload,
                prompts,
                f"noise floor: {name}",
                batch=batch,
                progress=progress,
                enough=enough,
            )
    return sets
