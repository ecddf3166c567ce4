"""The pipeline as a server has it: loaded, fixed, timed, and called for a batch of jobs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from PIL import Image

from halftime import bundled
from halftime.base.errors import BadInput, BadWorkload
from halftime.base.extras import optional
from halftime.base.ledger import Measured, ledger, measured
from halftime.base.store import to_json
from halftime.base.version import version
from halftime.fix import tiny_vae
from halftime.fix.apply import applied, kept_artefacts, read_plan, starts_on_host
from halftime.fix.table import FIXES
from halftime.pipeline.arguments import call_parameters
from halftime.pipeline.device import device_of, this_environment
from halftime.pipeline.load import LoadedPipeline, load
from halftime.records import Session, Workload
from halftime.records.recipe import Plan, Recipe
from halftime.records.serve import Mode
from halftime.records.session import BUNDLED
from halftime.verbs.profile.call import out_of_memory_explained, tree
from halftime.verbs.profile.clock import Clock, clock_for
from halftime.verbs.profile.instrument import instrumented
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.serve.certified import certificate_note
from halftime.verbs.serve.lora_swaps import check_swaps
from halftime.verbs.serve.loras import OfferedLoras, adapter_on, always_on, load_loras
from halftime.verbs.serve.messages import EngineSettings, Job
from halftime.verbs.serve.preview import quickened
from halftime.verbs.serve.references import most_references
from halftime.verbs.serve.shadow import Shadow, exact_part, shadow_of
from halftime.verbs.serve.source import source_of
from halftime.verbs.serve.stepping import Watch, watched

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DiffusionPipeline, SchedulerMixin

    from halftime.fix.artefacts import OpenArtefacts

OTHER = "other"  # of a call: what no stage took
# a fix that runs all steps in one go: nothing can be seen or ended in between
_WHOLE_LOOP = "loop-graph"


class Drawing(NamedTuple):
    """What one call of the pipeline gave."""

    pictures: np.ndarray  # uint8 [batch, height, width, 3]; of videos [batch, frames, ...]
    measured: Measured

    @property
    def seconds(self) -> float:
        return self.measured.run.wall_seconds

    @property
    def stages(self) -> dict[str, float]:
        """As `stages_of`."""
        return stages_of(self.measured)


def stages_of(call: Measured) -> dict[str, float]:
    """Stage -> seconds of a measured call; they add up to its wall clock."""
    stages: dict[str, float] = {}
    for span, seconds in call.costs.items():
        stages[span.stage] = stages.get(span.stage, 0.0) + seconds
    return {**stages, OTHER: max(0.0, call.run.wall_seconds - sum(stages.values()))}


@dataclass
class Studio:
    """One pipeline, its img2img sibling, and what is around them. Used by one thread."""

    loaded: LoadedPipeline
    source: Workload  # how it was loaded
    modes: dict[Mode, DiffusionPipeline]
    template: SchedulerMixin
    tiny: AutoencoderTiny | None
    fixes: tuple[str, ...]
    artefacts: OpenArtefacts | None
    recipe_hash: str | None
    default_guidance: float | None
    recorder: Recorder
    clock: Clock
    stack: ExitStack = field(default_factory=ExitStack)
    offered: OfferedLoras = field(default_factory=OfferedLoras)
    always_on: Mapping[str, float] = field(default_factory=dict)  # adapter -> its weight
    fps: float = 16.0  # of a video
    references: int = 1  # pictures that a call may be given at most
    beat: Callable[[], None] = lambda: None  # told of each step
    shadow: Shadow | None = None  # what draws again without the recipe

    @property
    def pipeline(self) -> DiffusionPipeline:
        return self.loaded.pipeline

    @property
    def loras(self) -> Mapping[str, str]:
        """Name -> the adapter's."""
        return self.offered.adapters

    def draw(self, jobs: Sequence[Job], watch: Watch) -> Drawing:
        """One call for all jobs, which are of one kind. Raises BadWorkload, NobodyWaits,
        OutOfMemory."""
        pipeline = self.modes[mode_of(jobs[0])]
        arguments = self.arguments(pipeline, jobs)
        watch.begin()
        watch.beat = self.beat
        self.recorder.reset()
        with (
            watched(pipeline, self.template, watch),
            adapter_on(self.pipeline, self.offered, self.always_on, jobs[0]),
            out_of_memory_explained(),
        ):
            origin = self.clock.start()
            pictures = as_pixels(pipeline(**arguments))
            check_frames(pictures, jobs[0])
            end = self.clock.finish()
        call = measured(tree(self.recorder, self.clock, origin), end.host - origin.host)
        return Drawing(pictures, call)

    def draw_again(self, job: Job) -> np.ndarray:
        """The job's picture as the pipeline drew it before its recipe. There must be a shadow."""
        assert self.shadow is not None
        pipeline = self.shadow.pipeline
        watch = Watch([job], lambda: [job], beat=self.beat)
        with watched(pipeline, pipeline.scheduler, watch), out_of_memory_explained():
            picture: np.ndarray = as_pixels(pipeline(**self.arguments(pipeline, [job])))[0]
        return picture

    def session(self, drawing: Drawing, job: Job) -> bytes:
        """This very call as a Session, as `halftime profile --json` writes one."""
        return to_json(session_of(self, drawing, job))

    def arguments(self, pipeline: DiffusionPipeline, jobs: Sequence[Job]) -> dict[str, object]:
        """The keyword arguments of the call. Raises BadWorkload for what was asked for and cannot
        be handed on."""
        first, parameters = jobs[0], call_parameters(pipeline)
        needed: dict[str, object] = {
            "prompt": [job.prompt for job in jobs],
            "num_inference_steps": first.steps,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            "output_type": "np",
        }
        if first.negative_prompt is not None:
            needed["negative_prompt"] = [job.negative_prompt or "" for job in jobs]
        if first.image is not None:
            pictures = [opened(job, job.image) for job in jobs]
            needed["image"] = pictures[0] if first.frames else pictures
        if first.references:
            needed["image"] = [opened(first, picture) for picture in first.references]
        if first.mask is not None:
            needed["mask_image"] = [opened(job, job.mask or b"", "L") for job in jobs]
        if first.frames is not None:
            needed["num_frames"] = first.frames
        if first.strength is not None:
            needed["strength"] = first.strength
        guidance = self.default_guidance if first.guidance is None else first.guidance
        optional = {"guidance_scale": guidance, "width": first.width, "height": first.height}
        missing = [name for name in needed if not parameters.takes(name)]
        if missing:
            raise BadWorkload(
                f"{type(pipeline).__name__} takes no {min(missing)}; leave it out of the request."
            )
        return needed | {
            name: value
            for name, value in optional.items()
            if value is not None and parameters.takes(name)
        }


def session_of(studio: Studio, drawing: Drawing, job: Job) -> Session:
    """One call on a live server as a Session; there is no first call beside it, and only one
    run."""
    workload = msgspec.structs.replace(
        studio.source,
        prompts=(job.prompt,),
        negative_prompt=job.negative_prompt,
        width=job.width,
        height=job.height,
        steps=job.steps,
        guidance=studio.default_guidance if job.guidance is None else job.guidance,
        seed=job.seed,
    )
    return Session(
        halftime=version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=studio.loaded.name,
        pipeline=type(studio.pipeline).__name__,
        wall_seconds=drawing.seconds,
        ledger=ledger([drawing.measured]),
        environment=this_environment(str(device_of(studio.pipeline))),
        workload=workload,
        workload_hash=workload.content_hash(),
        runs=(drawing.measured.run,),
        notes=(*studio.loaded.notes, *_lora_of(job), "one request on a live server"),
    )


def _lora_of(job: Job) -> tuple[str, ...]:
    return () if job.lora is None else (f"LoRA {job.lora} at weight {job.lora_scale:g}",)


def mode_of(job: Job) -> Mode:
    """Which of the pipelines draws it."""
    if job.mask is not None:
        return "inpaint"
    return "text2img" if job.image is None and not job.references else "img2img"


def opened(job: Job, data: bytes | None, mode: str = "RGB") -> Image.Image:
    """A picture of the job, of the size asked for. Raises BadWorkload where it is not one."""
    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG", "JPEG", "WEBP")) as image:
            return image.convert(mode).resize((job.width, job.height), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadWorkload("the picture cannot be read; send a PNG, JPEG or WebP.") from error


def as_pixels(result: object) -> np.ndarray:
    """A pipeline's output as uint8 [batch, height, width, 3], of videos [batch, frames, ...],
    rounded as diffusers rounds for PIL."""
    images = getattr(result, "images", getattr(result, "frames", None))
    images = np.stack(images) if isinstance(images, list) else images
    if not isinstance(images, np.ndarray) or images.ndim not in (4, 5) or images.shape[-1] != 3:
        raise BadInput(
            f"the pipeline gave {type(result).__name__}, not pictures of three channels; it "
            "cannot be served."
        )
    if not np.isfinite(images).all():
        raise BadInput(
            "the pipeline gave values that are not numbers, which become black pictures. In "
            "float16 the VAE of some models overflows: --dtype bfloat16 or float32 cures that."
        )
    return (images * 255).round().astype(np.uint8)


def check_frames(pictures: np.ndarray, job: Job) -> None:
    """Raises BadInput where the pipeline made another number of frames than it was asked for."""
    frames = pictures.shape[1] if pictures.ndim == 5 else None
    if frames != job.frames:
        raise BadInput(
            f"asked for {job.frames} frames the pipeline gave {frames}: its VAE allows only some "
            "numbers. Offer what it gives with --frames."
        )


def is_video(pipeline: DiffusionPipeline) -> bool:
    """Whether it makes videos."""
    return "num_frames" in call_parameters(pipeline).names


def open_studio(settings: EngineSettings) -> Studio:
    """Load, fix and instrument. Raises HalftimeError where that cannot be done."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    source = source_of(settings)
    loaded = load(settings.model, source, on_host=starts_on_host(settings.recipe))
    pipeline = loaded.pipeline
    pipeline.set_progress_bar_config(disable=True)
    stack = ExitStack()
    loras = load_loras(pipeline, settings)
    loaded = _with_certificate(loaded, settings)
    guidance = _default_guidance(pipeline, settings)
    own_guidance = _default_guidance(pipeline, msgspec.structs.replace(settings, guidance=None))
    shadow = shadow_of(pipeline, settings, guidance, own_guidance)
    fixes, artefacts = _fix(pipeline, settings, stack)
    check_swaps(loras.swaps)
    modes: dict[Mode, DiffusionPipeline] = {"text2img": pipeline}
    siblings: dict[Mode, bool] = {"img2img": settings.img2img, "inpaint": settings.inpaint}
    if is_video(pipeline):
        siblings, modes = {}, video_modes(pipeline)
    for mode, enabled in siblings.items():
        sibling = _sibling(pipeline, mode) if enabled else None
        if sibling is not None:
            sibling.set_progress_bar_config(disable=True)
            # as an attribute, so that it is instrumented too
            setattr(pipeline, f"halftime_{mode}", sibling)
            modes[mode] = sibling
    clock = clock_for(device_of(pipeline), alone=False)
    recorder = Recorder(clock)
    # Before anything is compiled, and for good: what is compiled then never sees it come or go.
    stack.enter_context(instrumented(pipeline, recorder))
    return Studio(
        loaded=loaded,
        source=source,
        modes=modes,
        template=pipeline.scheduler,
        tiny=None if _WHOLE_LOOP in fixes else _tiny(pipeline, settings),
        fixes=fixes,
        artefacts=artefacts,
        recipe_hash=_recipe_hash(settings.recipe),
        default_guidance=guidance,
        recorder=recorder,
        clock=clock,
        stack=stack,
        offered=loras,
        always_on=always_on(settings),
        fps=settings.fps,
        references=most_references(pipeline) if "img2img" in modes else 1,
        shadow=shadow,
    )


def video_modes(pipeline: DiffusionPipeline) -> dict[Mode, DiffusionPipeline]:
    """A pipeline that makes videos does so from nothing, from a picture, or from either. Raises
    MissingExtra where no file could be made of them."""
    optional("imageio_ffmpeg", "video", "serving a pipeline that makes videos")
    parameters = call_parameters(pipeline)
    if "image" not in parameters.names:
        return {"text2img": pipeline}
    if "image" in parameters.required:
        return {"img2img": pipeline}
    return {"text2img": pipeline, "img2img": pipeline}


def _fix(
    pipeline: DiffusionPipeline, settings: EngineSettings, stack: ExitStack
) -> tuple[tuple[str, ...], OpenArtefacts | None]:
    """Put the recipe on; the names of its fixes, and the file of compiled code where one is
    kept."""
    if settings.recipe is None:
        return (), None
    plan = _plan(settings.recipe, settings)
    artefacts = None
    if settings.artefacts is not None:
        artefacts = stack.enter_context(kept_artefacts(pipeline, plan, settings.artefacts))
    stack.enter_context(applied(pipeline, plan))
    return tuple(choice.name for choice in plan.fixes), artefacts


def _plan(recipe: str, settings: EngineSettings) -> Plan | Recipe:
    plan = read_plan(Path(recipe))
    return exact_part(plan) if settings.exact else plan


def _with_certificate(loaded: LoadedPipeline, settings: EngineSettings) -> LoadedPipeline:
    """With what the recipe's certificate says, among the notes. Raises Unlike on another model."""
    if settings.recipe is None:
        return loaded
    plan = _plan(settings.recipe, settings)
    guidance = _default_guidance(loaded.pipeline, settings)
    note = certificate_note(plan, loaded.pipeline, settings, guidance)
    return loaded._replace(notes=(*loaded.notes, note)) if note else loaded


def _recipe_hash(recipe: str | None) -> str | None:
    return None if recipe is None else hashlib.sha256(Path(recipe).read_bytes()).hexdigest()[:16]


_SIBLINGS = {"img2img": AutoPipelineForImage2Image, "inpaint": AutoPipelineForInpainting}


def _sibling(pipeline: DiffusionPipeline, mode: Mode) -> DiffusionPipeline | None:
    """The pipeline of the same parts that starts from a picture, or draws within a mask, where
    diffusers has one."""
    try:
        return _SIBLINGS[mode].from_pipe(pipeline)
    except (ValueError, TypeError, AttributeError):
        return None


def _tiny(pipeline: DiffusionPipeline, settings: EngineSettings) -> AutoencoderTiny | None:
    """The tiny VAE for previews; None where there is none for this pipeline's latents."""
    fix, source = FIXES["tiny-vae"], {"source": settings.tiny_vae or ""}
    if fix.applies(pipeline, device_of(pipeline), source):
        return None
    tiny: AutoencoderTiny = tiny_vae.load(source["source"], pipeline.vae)
    return quickened(tiny)


def _default_guidance(pipeline: DiffusionPipeline, settings: EngineSettings) -> float | None:
    if settings.guidance is not None:
        return settings.guidance
    if settings.model in (None, BUNDLED):
        return bundled.GUIDANCE
    guidance = call_parameters(pipeline).default("guidance_scale")
    return float(guidance) if isinstance(guidance, int | float) else None
