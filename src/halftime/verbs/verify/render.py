"""Pictures from a pipeline: one a prompt, each with a seed of its own, and the harmless variations
for the floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from halftime.base.progress import Progress, silent
from halftime.pipeline.arguments import call_arguments
from halftime.pipeline.change import patched, progress_bars
from halftime.records import Workload
from halftime.verbs.verify.floor import RERUN
from halftime.verbs.verify.pictures import UNSORTED, Latent, Picture, PictureSet, from_floats

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Prompt(NamedTuple):
    """A prompt, the class of its content, and the name of its picture."""

    text: str
    content_class: str = UNSORTED
    name: str = ""


def prompt_set(workload: Workload, count: int | None) -> list[Prompt]:
    """The workload's own prompts, each with as many seeds as `count` asks for; without prompts of
    its own the bundled test set, whose classes are known."""
    from halftime import bundled

    if workload.prompts == Workload().prompts:
        chosen = [Prompt(p.text, p.content_class) for p in bundled.prompts()[: count or 50]]
    else:
        wanted = count or len(workload.prompts)
        chosen = [Prompt(workload.prompts[i % len(workload.prompts)]) for i in range(wanted)]
    return [Prompt(p.text, p.content_class, f"{i:04d}") for i, p in enumerate(chosen)]


def render(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[Prompt],
    label: str,
    *,
    batch: int = 1,
    progress: Progress = silent,
) -> PictureSet:
    """One picture a prompt; picture i has the seed `workload.seed` + i, whatever the batch it is
    made in."""
    made: list[Picture] = []
    with progress_bars(pipeline, disable=True), _recorded_latents(pipeline) as latents:
        for start in range(0, len(prompts), batch):
            progress(label, start, len(prompts))
            made += _call(pipeline, workload, prompts[start : start + batch], start, latents)
    progress(label, len(prompts), len(prompts))
    return PictureSet(label, tuple(made))


def _call(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[Prompt],
    start: int,
    latents: list[Latent],
) -> list[Picture]:
    one = msgspec.structs.replace(
        workload,
        prompts=tuple(p.text for p in prompts),
        seed=workload.seed + start,
        images_per_prompt=1,
    )
    latents.clear()
    images = pipeline(**call_arguments(pipeline, one) | {"output_type": "np"}).images
    known = latents if len(latents) == len(prompts) else [None] * len(prompts)
    return [
        from_floats(
            np.asarray(image), p.name or f"{start + i:04d}", p.content_class, p.text, known[i]
        )
        for i, (p, image) in enumerate(zip(prompts, images, strict=True))
    ]


@contextmanager
def _recorded_latents(pipeline: DiffusionPipeline) -> Iterator[list[Latent]]:
    """What goes into `vae.decode`, one entry a picture; empty for a pipeline without it."""
    found: list[Latent] = []
    vae = getattr(pipeline, "vae", None)
    decode = getattr(vae, "decode", None)
    if decode is None:
        yield found
        return

    def recorded(z, *args, **kwargs):  # type: ignore[no-untyped-def]
        found.extend(z.detach().float().cpu().numpy())
        return decode(z, *args, **kwargs)

    with patched(vae, "decode", recorded):
        yield found


# ---- what should change nothing


@contextmanager
def _other_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else before // 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Convolutions and attention by other code: oneDNN off and plain attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def floor_sets(
    pipeline: DiffusionPipeline,
    workload: Workload,
    prompts: Sequence[Prompt],
    *,
    progress: Progress = silent,
) -> dict[str, PictureSet]:
    """The same configuration again, in batches of two, with another thread count, and with other
    kernels."""
    variations: dict[str, tuple[AbstractContextManager[object], int]] = {
        RERUN: (nullcontext(), 1),
        "batch": (nullcontext(), 2),
        "threads": (_other_threads(), 1),
        "kernels": (_other_kernels(), 1),
    }
    made = {}
    for name, (around, batch) in variations.items():
        with around:
            made[name] = render(
                pipeline, workload, prompts, f"noise floor: {name}", batch=batch, progress=progress
            )
    return made
