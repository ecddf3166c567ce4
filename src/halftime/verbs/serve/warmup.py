"""Warm-up: every kind of call that will be accepted, twice; ready only when dynamo stood still over
a whole pass."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress
from halftime.base.version import version
from halftime.pipeline.arguments import call_parameters, vae_factor
from halftime.pipeline.device import device_of, this_environment
from halftime.records.serve import Branch, Certificate, Graphs, Mode, WarmEntry
from halftime.upstream import pytorch
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.preview import Previews
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, is_video

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MOST_PASSES = 4  # the first compiles, the second may generalise a shape, the third must stand still
FEW_STEPS = 3  # first, middle and last: a loop's branches; more only repeats the same graphs
BUCKETS = (6, 24, 60, 120)  # tokens, where the length of a prompt changes shapes
UNGUIDED = 1.0
_GRAPHS_PER_KIND = 4  # of one function: it may stand in several places of a model
_PAYS = 1.0  # a batch pays where it takes no longer than so many times its pictures one by one


class NotStill(HalftimeError):
    """Dynamo went on compiling in every pass: what is served would be compiled in front of
    clients."""


class Kind(NamedTuple):
    """One kind of call."""

    mode: Mode
    width: int
    height: int
    batch: int
    guidance: Branch
    steps: int
    prompt_tokens: int | None
    lora: str | None = None
    frames: int | None = None


class Offered(NamedTuple):
    """What is to be offered."""

    sizes: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    modes: tuple[Mode, ...]
    branches: tuple[Branch, ...]
    buckets: tuple[int, ...]
    loras: tuple[str, ...] = ()
    references: int = 1
    frames: tuple[int | None, ...] = (None,)  # of videos


def kinds(offered: Offered) -> list[Kind]:
    """Every combination at few steps, then every number of steps once for each size: what
    certificates are made of."""
    few = min(FEW_STEPS, *offered.steps)
    buckets: Sequence[int | None] = offered.buckets or (None,)
    combinations = [
        Kind(mode, width, height, batch, branch, few, bucket, None, frames)
        for mode in offered.modes
        for width, height in offered.sizes
        for batch in offered.batches
        for branch in offered.branches
        for bucket in buckets
        for frames in offered.frames
        if batch == 1 or mode == "text2img" or offered.references == 1
    ]
    mode = offered.modes[0]
    full_length = [
        Kind(mode, width, height, 1, offered.branches[0], steps, buckets[0], None, frames)
        for width, height in offered.sizes
        for steps in offered.steps
        for frames in offered.frames
    ]
    with_loras = [
        Kind(mode, width, height, 1, offered.branches[0], few, buckets[0], lora, offered.frames[0])
        for width, height in offered.sizes
        for lora in offered.loras
    ]
    return list(dict.fromkeys([*combinations, *full_length, *with_loras]))


def offered_by(studio: Studio, settings: EngineSettings) -> Offered:
    """What the settings and the pipeline allow."""
    pipeline = studio.pipeline
    takes_guidance = call_parameters(pipeline).takes("guidance_scale")
    guided = takes_guidance and (studio.default_guidance or 0) > UNGUIDED
    sizes = settings.sizes or (own_size(pipeline),)
    _check_sizes(pipeline, sizes)
    return Offered(
        sizes=sizes,
        steps=tuple(sorted(set(settings.steps))),
        # one video fills a device
        batches=(1,) if is_video(pipeline) else batch_sizes(settings.max_batch),
        modes=tuple(studio.modes),
        branches=("guided", "unguided") if guided else ("unguided",),
        buckets=buckets_of(pipeline),
        loras=tuple(studio.loras),
        references=studio.references,
        frames=frames_of(pipeline, settings.frames) if is_video(pipeline) else (None,),
    )


def frames_of(pipeline: DiffusionPipeline, frames: tuple[int, ...]) -> tuple[int, ...]:
    """How many frames a video may have; the pipeline's own number where none is named. Raises
    BadInput where it has none."""
    own = call_parameters(pipeline).default("num_frames")
    if not frames and not isinstance(own, int):
        raise BadInput(f"{type(pipeline).__name__} has no number of frames of its own: --frames.")
    return frames or (int(own),)  # type: ignore[call-overload]


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `most` itself: few enough to be warmed, and no number of pictures is far
    from one."""
    return tuple(
        sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
    )


def own_size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    """The size that the pipeline draws where none is named."""
    defaults = [call_parameters(pipeline).default(side) for side in ("width", "height")]
    if is_video(pipeline) and all(isinstance(side, int) for side in defaults):
        width, height = defaults
        return width, height  # type: ignore[return-value]
    cells = getattr(pipeline, "default_sample_size", None)
    if not isinstance(cells, int):
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        cells = getattr(getattr(denoiser, "config", None), "sample_size", None)
        cells = cells if isinstance(cells, int) else 64
    side = cells * vae_factor(pipeline)
    return side, side


def _check_sizes(pipeline: DiffusionPipeline, sizes: Sequence[tuple[int, int]]) -> None:
    factor = vae_factor(pipeline)
    for width, height in sizes:
        if width < 1 or height < 1 or width % factor or height % factor:
            raise HalftimeError(
                f"size {width}x{height} cannot be drawn: each side must be a multiple of "
                f"{factor}, the VAE's factor."
            )


# ---- prompts


def buckets_of(pipeline: DiffusionPipeline) -> tuple[int, ...]:
    """Token counts to warm, or none where a longer prompt changes no shape (CLIP and T5 pad to
    their maximum)."""
    short, long = embedding_shape(pipeline, prompt_of(4)), embedding_shape(pipeline, prompt_of(40))
    if short is not None and short == long:
        return ()
    most = most_prompt_tokens(pipeline) or max(BUCKETS)
    return tuple(bucket for bucket in BUCKETS if bucket <= most) or (most,)


def prompt_of(tokens: int) -> str:
    """A prompt of about so many tokens."""
    return " ".join(["red"] * max(1, tokens))


def embedding_shape(pipeline: DiffusionPipeline, prompt: str) -> tuple[int, ...] | None:
    """The shape of a prompt's embedding; None where the pipeline has no `encode_prompt` that takes
    a bare prompt."""
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        return None
    values = {
        "device": device_of(pipeline),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        "prompt_2": None,
        "prompt_3": None,
    }
    parameters = inspect.signature(encode).parameters
    arguments = {name: value for name, value in values.items() if name in parameters}
    try:
        with torch.inference_mode():
            result = encode(prompt=prompt, **arguments)
    except (TypeError, ValueError, AttributeError):
        return None
    leaves = pytorch.tree_leaves(result)
    tensors = (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
    return next((tuple(tensor.shape) for tensor in tensors), None)


def most_prompt_tokens(pipeline: DiffusionPipeline) -> int | None:
    """The tokenizer's limit; None where it has none."""
    most = getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None)
    return most if isinstance(most, int) and most < 10**6 else None


# ---- passes


def jobs_of(
    kind: Kind, guidance: float | None, number: int, references: int = 1
) -> tuple[Job, ...]:
    """Jobs of a kind. In every other pass prompts are shorter, so that one graph for all lengths
    must be that."""
    tokens = 8 if kind.prompt_tokens is None else max(1, kind.prompt_tokens - number % 2)
    return tuple(
        Job(
            id=f"warm-up-{number}-{index}",
            prompt=prompt_of(tokens),
            width=kind.width,
            height=kind.height,
            steps=kind.steps,
            guidance=guidance if kind.guidance == "guided" else UNGUIDED,
            seed=index,
            previews=1,
            lora=kind.lora,
            frames=kind.frames,
            **_pictures(kind, references),
        )
        for index in range(kind.batch)
    )


def _pictures(kind: Kind, references: int) -> dict[str, Any]:
    """What a job of this kind brings along; strength 1, so that all steps are drawn."""
    if kind.mode == "text2img":
        return {}
    if kind.frames is not None:
        return {"image": _grey(kind, "RGB")}
    if references > 1:
        return {"references": (_grey(kind, "RGB"),)}
    mask = _grey(kind, "L") if kind.mode == "inpaint" else None
    return {"image": _grey(kind, "RGB"), "mask": mask, "strength": 1.0}


def _grey(kind: Kind, mode: str) -> bytes:
    file = BytesIO()
    Image.new("L", (kind.width, kind.height), 128).convert(mode).save(file, "PNG")
    return file.getvalue()


def graphs() -> Graphs:
    """Dynamo's counters now."""
    counters = pytorch.dynamo_counters()
    stats = counters["stats"]
    return Graphs(
        unique_graphs=stats["unique_graphs"],
        calls_captured=stats["calls_captured"],
        graph_breaks=sum(counters["graph_break"].values()),
    )


def _pass(
    studio: Studio, todo: Sequence[Kind], previews: Previews | None, number: int, progress: Progress
) -> Iterator[float]:
    for position, kind in enumerate(todo):
        progress(f"pass {number + 1}: {describe(kind)}", position, len(todo))
        jobs = jobs_of(kind, studio.default_guidance, number, studio.references)
        begun = time.perf_counter()
        if previews is not None:
            previews.open(jobs)
        with previews.paused() if previews is not None else nullcontext():
            studio.draw(jobs, Watch(jobs, lambda jobs=jobs: jobs, previews))  # type: ignore[misc]
        if previews is not None:
            previews.flush()
            for job in jobs:
                previews.close(job.id)
        yield time.perf_counter() - begun


def describe(kind: Kind) -> str:
    """A kind in words."""
    words = [
        f"{kind.width}x{kind.height}",
        f"batch of {kind.batch}",
        f"{kind.steps} steps",
        kind.guidance,
    ]
    words += [f"{kind.frames} frames"] * (kind.frames is not None)
    words += [kind.mode] * (kind.mode != "text2img")
    words += [f"LoRA {kind.lora}"] * (kind.lora is not None)
    words += [f"{kind.prompt_tokens} tokens"] * (kind.prompt_tokens is not None)
    return ", ".join(words)


def certify(
    studio: Studio, settings: EngineSettings, previews: Previews | None, progress: Progress
) -> Certificate:
    """Run everything until a whole pass compiled nothing. Raises NotStill, and what the pipeline
    raises."""
    before = graphs()
    offered = offered_by(studio, settings)
    todo = kinds(offered)
    # Past its limit (8) dynamo runs eagerly and says so once in a log: what is listed must all fit,
    # and be seen.
    pytorch.allow_recompiles(_GRAPHS_PER_KIND * len(todo))
    first = list(_pass(studio, todo, previews, 0, progress))
    after_first = earlier = graphs()
    for number in range(1, MOST_PASSES):
        second = list(_pass(studio, todo, previews, number, progress))
        now = graphs()
        if now == earlier:
            break
        earlier = now
    else:
        raise NotStill(
            f"dynamo still compiled in pass {MOST_PASSES} of the warm-up ({now.unique_graphs} "
            "graphs): something in the recipe compiles anew for equal calls. Look with: halftime "
            "profile --recipe"
        )
    entries = tuple(
        WarmEntry(
            **kind._asdict(),
            previews=previews is not None,
            first_seconds=first_seconds,
            second_seconds=second_seconds,
        )
        for kind, first_seconds, second_seconds in zip(todo, first, second, strict=True)
    )
    return _certificate(studio, offered, entries, number + 1, (before, after_first, now))


def _certificate(
    studio: Studio,
    offered: Offered,
    entries: tuple[WarmEntry, ...],
    passes: int,
    counters: tuple[Graphs, Graphs, Graphs],
) -> Certificate:
    paying, lost = paying_batches(entries, offered.batches)
    pipeline = studio.pipeline
    notes = [
        f"a batch of {batch} takes {ratio:.2f} times its pictures one by one: not used"
        for batch, ratio in lost
    ]
    return Certificate(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=studio.loaded.name,
        pipeline=type(pipeline).__name__,
        sizes=offered.sizes,
        steps=offered.steps,
        schedulers=(type(studio.template).__name__,),
        prompt_tokens=offered.buckets,
        most_prompt_tokens=most_prompt_tokens(pipeline),
        guidance=offered.branches,
        default_guidance=studio.default_guidance,
        batch_sizes=paying,
        previews=studio.tiny is not None,
        img2img="img2img" in offered.modes,
        inpaint="inpaint" in offered.modes,
        references=offered.references,
        loras=offered.loras,
        frames=tuple(count for count in offered.frames if count is not None),
        fps=studio.fps if offered.frames != (None,) else None,
        needs_picture="text2img" not in offered.modes,
        entries=entries,
        passes=passes,
        graphs_before=counters[0],
        graphs_first=counters[1],
        graphs_second=counters[2],
        environment=this_environment(str(device_of(pipeline))),
        recipe_hash=studio.recipe_hash,
        fixes=studio.fixes,
        notes=(*studio.loaded.notes, *notes),
    )


def paying_batches(
    entries: Sequence[WarmEntry], batches: Sequence[int]
) -> tuple[tuple[int, ...], list[tuple[int, float]]]:
    """The batch sizes that are worth waiting for each other, and those that are not, with how much
    longer they take."""
    paying, lost = [1], []
    for batch in batches:
        ratio = _against_one_by_one(entries, batch)
        if batch > 1 and ratio <= _PAYS:
            paying.append(batch)
        elif batch > 1:
            lost.append((batch, ratio))
    return tuple(paying), lost


def _against_one_by_one(entries: Sequence[WarmEntry], batch: int) -> float:
    def key(entry: WarmEntry) -> tuple[object, ...]:
        return (
            entry.mode,
            entry.width,
            entry.height,
            entry.guidance,
            entry.steps,
            entry.prompt_tokens,
            entry.frames,
        )

    alone = {key(entry): entry.second_seconds for entry in entries if entry.batch == 1}
    together = [entry for entry in entries if entry.batch == batch and key(entry) in alone]
    total = sum(batch * alone[key(entry)] for entry in together)
    return sum(entry.second_seconds for entry in together) / total if total else 1.0
