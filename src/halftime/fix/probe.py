"""One short call with and without the fixes: each level is shown once on the pipeline itself.

What a fix promises holds for the pipelines that it was tried on; the user's may be in a state that
nobody thought of. So before a plan counts as applied, two short calls are compared: the pipeline as
it is, and under those fixes of the plan that promise the same picture. A fix that is off by more
than its level allows is refused, with the figure. One that promises less shows in a call that the
pipeline runs under it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from halftime.base.environment import versions
from halftime.base.errors import DoesNotApply, HalftimeWarning, first_line
from halftime.fix import cache_noise
from halftime.fix.base import ChosenFix, Settings
from halftime.fix.blocks import block
from halftime.fix.offload import computing_device
from halftime.fix.undo import restored
from halftime.pipeline.architecture import architecture
from halftime.pipeline.arguments import call_parameters, drawn_by_blocks, vae_factor
from halftime.pipeline.change import progress_bars
from halftime.pipeline.components import components_of, denoisers, modules_of, pipelines_of
from halftime.pipeline.device import device_of, fastest_dtype
from halftime.pipeline.state import PipelineState, state_of
from halftime.records import Json
from halftime.records.fixes import FixName
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_COMPILES = "it compiles for the shapes of a call, which takes longer than any call shows"
_NO_TENSOR = "it changes no tensor of a call"
# Fixes whose level is not probed, and why. `tune` and `verify` compare their pictures.
NOT_PROBED: dict[FixName, str] = {
    "progress-bar-off": _NO_TENSOR,
    "text-warmup": _NO_TENSOR,
    "denoiser-compile": _COMPILES,
    "vae-compile": _COMPILES,
    "loop-graph": _COMPILES,
    "openvino": _COMPILES,
    "onnxruntime": _COMPILES,
}
# How far an equivalent picture may be: rmse over the picture's own deviation, by the coarsest dtype
# that is computed in. Two steps through some hundred layers add up to about 25 roundings of that
# dtype in a row (2^-24, 2^-11, 2^-8, halved), and guidance multiplies them; what is wrong in kind
# (a LoRA left out, a stale feature) was 0.1 to 1.4 off.
BOUNDS: dict[torch.dtype, float] = {
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# A probe sees one small picture; how far off others are varies by about as much again, so it asks
# for half of what is promised.
_PROBED_SHARE = 0.5
_IN_FEWER_BITS: dict[FixName, torch.dtype] = {"tf32": torch.float16}  # as many of mantissa
_SIZES = (64, 128, 256)  # of a picture, the smallest first; then what the model was made for
# Arguments that some calls take one of, or have another number of frames for.
_LEFT_OUT = ((), ("video",), ("image",), ("num_frames", "video"))
_STEPS = 3  # of a call under a fix that chooses them: another number than the pipeline's own two
_PICTURES = ("image", "original_image", "control_image", "mask_image", "control_mask")
_VIDEOS = ("video", "control_video", "conditioning_frames", "pose_video", "face_video")
_PASSED: set[str] = set()  # keys of probes that passed in this process


class ShortCall(NamedTuple):
    """The picture of one call, or why there is none."""

    picture: np.ndarray | None
    error: str = ""


def check_levels(
    pipeline: DiffusionPipeline,
    chosen: Sequence[ChosenFix],
    arguments: Mapping[str, object] | None = None,
    *,
    state: PipelineState | None = None,
    steps: int | None = None,
) -> None:
    """Two short calls, compared, and a third under fixes that promise no equal picture; none where
    this plan passed on this pipeline and state before. Quantised weights beside a step cache cost
    one call of `steps` more.

    `arguments` are the call's where its own smallest cannot be guessed; `state` is the pipeline's,
    where it was looked at already; without `steps` a call has the pipeline's own number. Raises
    DoesNotApply, naming the fix and how far it is off; warns where the pipeline cannot be called in
    that way.
    """
    placing = _placing(pipeline, chosen)
    probed = [choice for choice in probed_fixes(chosen) if choice not in placing]
    if not probed:
        return
    key = probe_key(pipeline, [*placing, *probed], state) + (
        str(steps) if cache_noise.asks(chosen) else ""
    )
    if key in _PASSED:
        return
    with _undisturbed(pipeline), block(pipeline, placing) as stack:
        for fix, settings in placing:
            stack.enter_context(fix.apply(pipeline, settings))
        call = _first_call(pipeline, arguments)
        if call is None:
            words = (
                f"{type(pipeline).__name__} was not probed: no short call of it could be guessed. "
                "Give its arguments, as in applied(..., probe={'image': picture})."
            )
            warnings.warn(words, HalftimeWarning, stacklevel=4)
            return
        equal = [choice for choice in probed if choice.fix.level != "approximate"]
        for fixes in (equal, probed if len(probed) > len(equal) else []):
            complaint = _complaint(pipeline, fixes, *call) if fixes else ""
            if complaint:
                raise DoesNotApply(_blame(pipeline, fixes, *call, complaint))
        if cache_noise.asks(chosen):
            _check_noise(pipeline, chosen, call[1], steps)
    _PASSED.add(key)


def _placing(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> list[ChosenFix]:
    """What takes a pipeline from the host to a card: both pictures are then drawn there."""
    own = device_of(pipeline)
    if computing_device(own, chosen) == own:
        return []
    return [choice for choice in chosen if choice.fix.name == "offload"]


def _check_noise(
    pipeline: DiffusionPipeline,
    chosen: Sequence[ChosenFix],
    arguments: Mapping[str, object],
    steps: int | None,
) -> None:
    """Raises DoesNotApply where a cache would repeat the noise of quantised weights."""
    count = steps or cache_noise.steps_of_call(pipeline)
    call = {
        **arguments,
        **({"num_inference_steps": count} if "num_inference_steps" in arguments else {}),
    }
    complaint = cache_noise.complaint(pipeline, chosen, lambda: _called(pipeline, call))
    if complaint:
        raise DoesNotApply(
            f"fixes 'denoiser-quantize' and 'step-cache' do not go together here: in a call of "
            f"{count} steps {complaint}."
        )


def probed_fixes(chosen: Sequence[ChosenFix]) -> list[ChosenFix]:
    """Those that show in a short call, with few steps where they choose the steps."""
    return [
        ChosenFix(choice.fix, {**choice.settings, **_few_steps(choice.settings)})
        for choice in chosen
        if choice.fix.name not in NOT_PROBED
    ]


def _few_steps(settings: Settings) -> dict[str, Json]:
    steps = settings.get("steps")
    return {"steps": min(steps, _STEPS)} if isinstance(steps, int) else {}


def probe_key(
    pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix], state: PipelineState | None = None
) -> str:
    """What a probe holds for: these fixes, on this architecture, in this state and software."""
    scheduler = getattr(pipeline, "scheduler", None)
    facts = (
        type(pipeline).__name__,
        sorted(architecture(pipeline).items()),
        state_of(pipeline) if state is None else state,
        type(scheduler).__name__,
        sorted(map(repr, dict(getattr(scheduler, "config", {})).items())),
        device_of(pipeline).type,
        sorted(map(str, _dtypes(pipeline))),
        [(fix.name, sorted(settings.items())) for fix, settings in probed_fixes(chosen)],
        [versions().get(package) for package in ("torch", "diffusers")],
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


# ---- the verdict


def _complaint(
    pipeline: DiffusionPipeline,
    fixes: Sequence[ChosenFix],
    baseline: np.ndarray,
    arguments: Mapping[str, object],
) -> str:
    """What is wrong with the picture under the fixes; '' where nothing is."""
    with block(pipeline, fixes) as stack:
        for fix, settings in fixes:
            stack.enter_context(fix.apply(pipeline, settings))
        candidate = _called(pipeline, arguments)
    if candidate.picture is None:
        return f"the call fails under it ({candidate.error})"
    if not np.isfinite(candidate.picture).all():
        return "its picture is not finite"
    if any(choice.fix.level == "approximate" for choice in fixes):
        return ""
    bound = _PROBED_SHARE * _bound(pipeline, fixes)
    if bound == 0 and not np.array_equal(candidate.picture, baseline):
        # A pipeline that does not repeat itself cannot show that nothing changed.
        again = _called(pipeline, arguments).picture
        bound = 0.0 if again is None else 3 * distance(again, baseline)
    off = distance(candidate.picture, baseline)
    if off <= bound:
        return ""
    return f"its picture is off by {off:.2g} of its deviation, and {bound:.2g} is allowed"


def _blame(
    pipeline: DiffusionPipeline,
    fixes: Sequence[ChosenFix],
    baseline: np.ndarray,
    arguments: Mapping[str, object],
    together: str,
) -> str:
    """The message: which fix it is, found by one more call for each where there are several."""
    if len(fixes) == 1:
        return _refusal(fixes[0], together)
    for choice in fixes:
        alone = _complaint(pipeline, [choice], baseline, arguments)
        if alone:
            return _refusal(choice, alone)
    names = ", ".join(choice.fix.name for choice in fixes)
    return (
        f"the fixes {names} do not work together on this pipeline: {together}. Apply fewer "
        "of them, or pass probe=False and compare the pictures with `halftime verify`."
    )


def _refusal(choice: ChosenFix, complaint: str) -> str:
    level = choice.fix.level
    broken = "does not work" if level == "approximate" else f"is not {level!r}"
    return (
        f"fix {choice.fix.name!r} {broken} on this pipeline as it is: in a probe of "
        f"{_STEPS if 'steps' in choice.settings else 2} steps {complaint}. Leave it out, or pass "
        "probe=False and compare the pictures with `halftime verify`."
    )


def _bound(pipeline: DiffusionPipeline, fixes: Sequence[ChosenFix]) -> float:
    if all(choice.fix.level == "bit-exact" for choice in fixes):
        return 0.0
    names = {str(value) for _, settings in fixes for value in settings.values()}
    if "fastest" in names:
        names.add(fastest_dtype(device_of(pipeline)))
    dtypes = {dtype for dtype in BOUNDS if str(dtype).removeprefix("torch.") in names}
    dtypes |= {_IN_FEWER_BITS[fix.name] for fix, _ in fixes if fix.name in _IN_FEWER_BITS}
    return max(BOUNDS.get(dtype, BOUNDS[torch.float32]) for dtype in dtypes | _dtypes(pipeline))


def _dtypes(pipeline: DiffusionPipeline) -> set[torch.dtype]:
    """Of all weights; torch.float32 where there is none."""
    weights = (weight for module in modules_of(pipeline).values() for weight in module.parameters())
    return {weight.dtype for weight in weights if weight.is_floating_point()} or {torch.float32}


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """rmse over the deviation of the right one; infinite for another shape and for NaN."""
    if left.shape != right.shape or not np.isfinite(left).all():
        return float("inf")
    error = float(np.sqrt(np.mean((left - right) ** 2)))
    return error / max(float(right.std()), 1e-6)


# ---- the call


def _first_call(
    pipeline: DiffusionPipeline, arguments: Mapping[str, object] | None
) -> tuple[np.ndarray, Mapping[str, object]] | None:
    """The picture of the smallest call that the pipeline takes, and that call's arguments."""
    for attempt in _attempts(pipeline, arguments or {}):
        picture = _called(pipeline, attempt).picture
        if picture is not None and np.isfinite(picture).all():
            return picture, attempt
    return None


def _attempts(
    pipeline: DiffusionPipeline, arguments: Mapping[str, object]
) -> Iterator[Mapping[str, object]]:
    """Calls that the pipeline might take, the smallest first, each once."""
    attempts: list[Mapping[str, object]] = []
    for size in (*_SIZES, *_native_sizes(pipeline), None):
        short = short_arguments(pipeline, size)
        for names in _LEFT_OUT:
            remaining = {name: value for name, value in short.items() if name not in names}
            if not any(_names_same(remaining, earlier) for earlier in attempts):
                attempts.append(remaining)
                yield {**remaining, **arguments}


def _names_same(left: Mapping[str, object], right: Mapping[str, object]) -> bool:
    """Whether two calls have the same arguments: pictures of one size are the same picture."""
    return left.keys() == right.keys() and all(
        left.get(name) == right.get(name) for name in ("height", "width", "processing_resolution")
    )


def _native_sizes(pipeline: DiffusionPipeline) -> Iterator[int]:
    """The size that the denoiser was made for, where its positions have no other."""
    for denoiser in denoisers(pipeline):
        config = getattr(denoiser, "config", {})
        side = config.get("sample_size") or config.get("sample_height")
        if isinstance(side, int):
            yield side * vae_factor(pipeline)


def short_arguments(pipeline: DiffusionPipeline, size: int | None) -> dict[str, object]:
    """Two steps of the smallest picture or video, with both prompts; of these what the call
    takes."""
    side = size or 512
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    possible: dict[str, object] = {
        "prompt": "a red apple on a white table",
        "negative_prompt": "blue",
        "num_inference_steps": 2,
        "prior_num_inference_steps": 2,
        **dict.fromkeys(_PICTURES, picture),
        **dict.fromkeys(_VIDEOS, [picture] * 9),
        "class_labels": [0],
        "image_crf": 0,  # another codec, which needs PyAV
        "num_frames": 9,
        "overlap_history": 3,  # a video is continued from its last frames; None is no default
        "strength": 0.99,
        "use_resolution_binning": False,
        "clean_caption": False,
        "output_type": "np",
        "processing_resolution": side,
        "_auto_resize": False,
        **({} if size is None else {"height": size, "width": size, "max_area": size * size}),
    }
    blocks = hugging_face.blocks_of(pipeline)
    if blocks is not None:  # pictures would choose other blocks than those that have components
        possible = {k: v for k, v in possible.items() if k not in (*_PICTURES, *_VIDEOS)}
        possible["output"] = drawn_by_blocks(pipeline) or blocks.outputs[0].name
    names = call_parameters(pipeline).names
    return {name: value for name, value in possible.items() if name in names}


def _called(pipeline: DiffusionPipeline, arguments: Mapping[str, object]) -> ShortCall:
    seeded = {"generator": torch.Generator("cpu").manual_seed(0), **arguments}
    if "generator" not in call_parameters(pipeline).names:
        del seeded["generator"]
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = pipeline(**seeded)
        return ShortCall(_as_array(result))
    except Exception as error:  # a pipeline may refuse the arguments in any way
        return ShortCall(None, f"{type(error).__name__}: {first_line(error)[:160]}")


def _as_array(result: object) -> np.ndarray:
    pictures = result[0]  # type: ignore[index]
    if isinstance(pictures, torch.Tensor):
        return pictures.detach().double().cpu().numpy()
    return np.asarray(pictures, dtype=np.float64)


@contextmanager
def _undisturbed(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Afterwards random numbers, the pipeline, its schedulers and its models are as they were
    before: a call that fails in its middle (PAG's, say) leaves its attention processors behind."""
    holders = [
        *pipelines_of(pipeline),
        *(part for part in components_of(pipeline).values() if hasattr(part, "set_timesteps")),
    ]
    before = [(holder, _shallow(vars(holder))) for holder in holders]
    device = device_of(pipeline)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(progress_bars(pipeline, disable=True))
        for module in modules_of(pipeline).values():
            stack.enter_context(restored(module))
        try:
            yield
        finally:
            stack.close()
            for holder, attributes in before:
                vars(holder).clear()
                vars(holder).update(attributes)


def _shallow(attributes: Mapping[str, object]) -> dict[str, object]:
    return {
        name: list(value) if type(value) is list else value for name, value in attributes.items()
    }
