"""step-cache: what a denoiser computed on earlier steps answers for it on later ones.

`kind` names the way: DeepCache's idea for UNets (`halftime.fix.deep_cache`), diffusers'
caches for transformers. Those know nothing of the pipeline; what each evaluation is (its context,
its step, how far the call has come) is said here, for pipelines that say it and for those that do
not. Look at the pictures.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import diffusers
from diffusers import hooks as caches
from torch import Tensor, nn

from halftime.base.errors import first_line
from halftime.fix import hard_prompts
from halftime.fix.base import (
    ChosenFix,
    FixCode,
    Settings,
    first_reason,
    needs_denoiser,
    number,
    one_of,
    text,
)
from halftime.fix.calls import RunningCall, followed
from halftime.fix.conditioning import (
    MOST_CONDITIONINGS,
    Conditionings,
    conditioning_of,
    conditions,
)
from halftime.fix.deep_cache import deep_cached, no_two_passes
from halftime.fix.text import Identities, counted_version
from halftime.fix.undo import first_tensor, restored
from halftime.pipeline.change import logging_at_least, patched
from halftime.pipeline.components import denoisers
from halftime.pipeline.device import device_of
from halftime.records.fixes import NOT_BY_BLOCKS
from halftime.records.priors import components_of
from halftime.upstream import diffusers_caches, hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from diffusers.hooks.hooks import ModelHook

UNETS = "deep"
TRANSFORMERS = "first-block"  # where no kind is named
_FULL_STEPS = 3  # at the beginning, before TaylorSeer extrapolates
_MOST_SKIPPED = 3  # steps in a row, where a threshold decides (MagCache's paper)
_TIMESTEPS = 1000.0  # of a call, whatever its model counts in
_IN_MIDDLE = (100, 800)  # of those, where attention changes little (PAB's paper)
_EVERYTHING = 10**9  # steps


# ---- where a call is


@dataclass
class Evaluation:
    """Which evaluation of its model runs, for caches that ask."""

    context: str = ""
    step: int = 0
    steps: int = 1

    @property
    def timestep(self) -> float:
        """From 1000 at the beginning to 0 at the end of the call."""
        return _TIMESTEPS * (1 - self.step / max(self.steps, self.step, 1))


@dataclass
class Followed:
    """The evaluations of one model, each in its own context: its name, or else its conditioning,
    and its shape. Evaluations of one context continue each other."""

    pipeline: DiffusionPipeline
    model: nn.Module
    running: RunningCall
    evaluation: Evaluation
    hooks: list[ModelHook]
    conditionings: Conditionings = field(default_factory=Conditionings)
    announced: str | None = None  # the context that the pipeline has set
    counts: dict[str, int] = field(default_factory=dict)
    states: dict[tuple[int, str], object] = field(default_factory=dict)

    def begin(self) -> None:
        """A new call of the pipeline, however the last one ended: nothing of it is used."""
        diffusers_caches.forget(self.model)
        self.conditionings = Conditionings()
        self.counts.clear()
        self.states.clear()

    def enter(self, conditioning: Tensor | None, latents: Tensor | None) -> None:
        """Before each evaluation: say where it is."""
        if not self.running.here or self.running.next() == 0:
            self.begin()
        name = self.announced
        if name is None:
            name = f"halftime {self._number(conditioning)}"
        shape = "" if latents is None else f" {tuple(latents.shape)} {latents.dtype}"
        self.evaluation.context = name + shape
        self.evaluation.step = self.counts.get(self.evaluation.context, 0)
        self.evaluation.steps = steps_of(self.pipeline)
        self.counts[self.evaluation.context] = self.evaluation.step + 1
        self._exchange_states()

    def _number(self, conditioning: Tensor | None) -> int:
        number = self.conditionings.number(conditioning)
        if number is None:
            if len(self.conditionings.tensors) == MOST_CONDITIONINGS:
                self.begin()
            self.conditionings.tensors.append(conditioning)
            number = len(self.conditionings.tensors) - 1
        return number

    def _exchange_states(self) -> None:
        """Attention caches have one state for all contexts: each gets its own."""
        for index, hook in enumerate(self.hooks):
            if hasattr(hook, "state"):
                key = index, self.evaluation.context
                hook.state = self.states.setdefault(key, type(hook.state)())

    def context(self, timestep: Tensor | None) -> AbstractContextManager[object]:
        """diffusers' own context of this evaluation."""
        return diffusers_caches.context(
            self.model,
            self.evaluation.context,
            step_index=self.evaluation.step,
            num_inference_steps=max(self.evaluation.steps, self.evaluation.step + 1),
            sigma=_sigma(self.pipeline, timestep),
        )

    @contextmanager
    def announcing(self) -> Iterator[None]:
        """Within it the contexts that the pipeline sets are seen."""
        original = getattr(self.model, "cache_context", None)
        if original is None:
            yield
            return

        @contextmanager
        def cache_context(name: str, *args: object, **kwargs: object) -> Iterator[None]:
            before, self.announced = self.announced, name
            try:
                with original(name, *args, **kwargs):
                    yield
            finally:
                self.announced = before

        with patched(self.model, "cache_context", cache_context):
            yield


def steps_of(pipeline: DiffusionPipeline) -> int:
    """How many steps the running call has."""
    steps = getattr(pipeline, "num_timesteps", None)
    return int(steps) if steps else len(getattr(pipeline.scheduler, "timesteps", ()))


def _sigma(pipeline: DiffusionPipeline, timestep: Tensor | None) -> float | None:
    """The noise level of a flow-matching step, 0 to 1; None for others. It reads the timestep, as
    the one cache does that asks for it."""
    config = getattr(pipeline.scheduler, "config", {})
    if timestep is None or not _matches_flows(pipeline):
        return None
    return float(timestep.max()) / float(config.get("num_train_timesteps", _TIMESTEPS))


def _matches_flows(pipeline: DiffusionPipeline) -> bool:
    config = getattr(pipeline.scheduler, "config", {})
    return "FlowMatch" in type(pipeline.scheduler).__name__ or bool(config.get("use_flow_sigmas"))


# ---- the kinds


Install = Callable[[nn.Module, Evaluation, Settings], None]
Refuse = Callable[["DiffusionPipeline", nn.Module], str | None]


class CacheKind(NamedTuple):
    """A cache of diffusers: how its hooks are put on a model, and which models it cannot have."""

    function: str  # of diffusers.hooks
    install: Install
    refuse: Refuse


def _every(settings: Settings) -> int:
    return int(number(settings, "every"))


def _first_block(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    config = caches.FirstBlockCacheConfig(threshold=number(settings, "threshold"))
    caches.apply_first_block_cache(model, config)


def _mag(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    caches.apply_mag_cache(model, _measuring())


def _measuring() -> object:
    """A MagCache that computes in full and notes its ratios."""
    return caches.MagCacheConfig(calibrate=True, num_inference_steps=_EVERYTHING)


def _taylorseer(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    names = [name.replace(".", "[.]") for name in diffusers_caches.cacheable_attentions(model)]
    _apply_taylorseer(model, settings, cache_identifiers=names or ["(?!)"])


def _taylorseer_lite(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    _apply_taylorseer(model, settings, use_lite_mode=True)


def _apply_taylorseer(model: nn.Module, settings: Settings, **which: object) -> None:
    config = caches.TaylorSeerCacheConfig(
        cache_interval=_every(settings),
        disable_cache_before_step=_FULL_STEPS,
        max_order=1,
        taylor_factors_dtype=next(model.parameters()).dtype,
        **which,
    )
    caches.apply_taylorseer_cache(model, config)


def _pyramid(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    every = _every(settings)
    config = caches.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=every,
        temporal_attention_block_skip_range=every,
        cross_attention_block_skip_range=every,
        spatial_attention_timestep_skip_range=_IN_MIDDLE,
        temporal_attention_timestep_skip_range=_IN_MIDDLE,
        cross_attention_timestep_skip_range=_IN_MIDDLE,
        current_timestep_callback=lambda: evaluation.timestep,
    )
    caches.apply_pyramid_attention_broadcast(model, config)


def _faster(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    every = _every(settings)
    config = caches.FasterCacheConfig(
        spatial_attention_block_skip_range=every,
        temporal_attention_block_skip_range=every,
        spatial_attention_block_identifiers=("blocks", "layers"),
        # Weights that grow from 0 to 1 with the call, as its paper says.
        attention_weight_callback=lambda _: 1 - evaluation.timestep / _TIMESTEPS,
        current_timestep_callback=lambda: evaluation.timestep,
    )
    # it warns at each use that it is experimental
    with logging_at_least(diffusers.utils.logging, logging.ERROR):
        caches.apply_faster_cache(model, config)


def _sea(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    config = caches.SeaCacheConfig(
        threshold=number(settings, "threshold"), max_consecutive_cached=_MOST_SKIPPED
    )
    caches.apply_sea_cache(model, config)


def _text_kv(model: nn.Module, evaluation: Evaluation, settings: Settings) -> None:
    caches.apply_text_kv_cache(model, caches.TextKVCacheConfig())


def _by_first_block(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    return diffusers_caches.unknown_to_first_block_cache(model)


def _by_blocks(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    return diffusers_caches.unknown_to_mag_cache(model)


def _lite(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    if not isinstance(getattr(model, "proj_out", None), nn.Module):
        return "its transformer has no proj_out, which TaylorSeer's lite mode extrapolates"
    if any(getattr(block, "context_pre_only", False) for block in model.modules()):
        return "the last block gives no text states, which TaylorSeer's lite mode expects"
    return None


def _sea_knows(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    config = getattr(model, "config", {})
    is_expected = type(model).__name__ == "WanTransformer3DModel" and (
        config.get("in_channels") == config.get("out_channels")
    )
    return first_reason(
        None if is_expected else f"diffusers' SeaCache does not know {type(model).__name__}",
        None if _matches_flows(pipeline) else "SeaCache needs a scheduler of flow matching",
    )


def _texts_at_hand(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    """TextKVCache uses a block's weights before the block itself is called."""
    if any(
        hugging_face.GROUP_OFFLOADING in hugging_face.diffusers_hooks(block)
        for block in diffusers_caches.transformer_blocks(model)
    ):
        return f"{NOT_BY_BLOCKS}. Use offload_type = 'leaf_level', or leave the cache out"
    return None


def _anything(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    return None


KINDS: Mapping[str, CacheKind] = {
    "first-block": CacheKind("apply_first_block_cache", _first_block, _by_first_block),
    "mag": CacheKind("apply_mag_cache", _mag, _by_blocks),
    "taylorseer": CacheKind("apply_taylorseer_cache", _taylorseer, _anything),
    "taylorseer-lite": CacheKind("apply_taylorseer_cache", _taylorseer_lite, _lite),
    "pyramid-attention": CacheKind("apply_pyramid_attention_broadcast", _pyramid, _anything),
    "faster": CacheKind("apply_faster_cache", _faster, _anything),
    "sea": CacheKind("apply_sea_cache", _sea, _sea_knows),
    "text-kv": CacheKind("apply_text_kv_cache", _text_kv, _texts_at_hand),
}


# ---- what some kinds need to be told at each evaluation


@dataclass
class MagRatios:
    """MagCache's ratios, measured in the first call of each number of steps: it is computed in
    full. They depend on the model and on its schedule, so that none can be built in."""

    followed: Followed
    settings: Settings
    by_steps: dict[int, list[float]] = field(default_factory=dict)
    measured: dict[str, list[float]] = field(default_factory=dict)  # by context, of this call
    measured_steps: int = 0
    completed: int = 0  # calls of the pipeline when it began

    def before(self) -> None:
        """At the first evaluation of a call: take up what the last one measured, and decide."""
        if sum(self.followed.counts.values()) > 1:
            return
        self._take_up()
        self.completed = self.followed.running.completed
        self.measured_steps = self.followed.evaluation.steps
        ratios = self.by_steps.get(self.measured_steps)
        config = self._skipping(ratios) if ratios else _measuring()
        for hook in diffusers_caches.all_hooks(self.followed.model):
            if hasattr(hook, "config"):
                hook.config = config

    def _skipping(self, ratios: list[float]) -> object:
        return caches.MagCacheConfig(
            threshold=number(self.settings, "threshold"),
            max_skip_steps=_MOST_SKIPPED,
            num_inference_steps=len(ratios),
            mag_ratios=ratios,
        )

    def _take_up(self) -> None:
        finished = self.followed.running.completed > self.completed
        longest = max(map(len, self.measured.values()), default=0)
        if finished and longest > 1:
            rows = [row for row in self.measured.values() if len(row) == longest]
            self.by_steps[self.measured_steps] = [
                sum(ratios) / len(ratios) for ratios in zip(*rows, strict=True)
            ]
        self.measured = {}

    def after(self) -> None:
        """After each evaluation: keep what it measured, before the pipeline resets its caches."""
        name = self.followed.evaluation.context
        for hook in self.followed.hooks:
            ratios = diffusers_caches.mag_ratios(hook, name)
            if ratios:
                self.measured[name] = ratios


def _split_where_guided(
    follower: Followed, arguments: Mapping[str, object], latents: Tensor | None
) -> None:
    """FasterCache leaves out the unconditional half where both are in one batch, and only then."""
    shape = None if latents is None else _tensor_format(follower.model, latents)
    halved = _doubled(arguments, latents)
    guided = (
        follower.running.here
        and shape is not None
        and halved is not None
        and bool(getattr(follower.pipeline, "do_classifier_free_guidance", False))
        and hugging_face.guides_in_one_batch(follower.pipeline)
    )
    for hook in follower.hooks:
        hook.is_guidance_distilled = not guided
        if guided and hasattr(hook, "tensor_format"):
            hook.tensor_format = shape
            hook.uncond_cond_input_kwargs_identifiers = halved


def _doubled(arguments: Mapping[str, object], latents: Tensor | None) -> list[str] | None:
    """Names of the arguments that have the doubled batch in front; None where some are nested,
    which FasterCache does not halve."""
    batch = 1 if latents is None else int(latents.shape[0])
    if batch % 2:
        return None

    def is_doubled(leaf: object) -> bool:
        return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch

    nested = (value for value in arguments.values() if not isinstance(value, Tensor))
    if any(is_doubled(leaf) for value in nested for leaf in pytorch.tree_leaves(value)):
        return None
    return [name for name, value in arguments.items() if is_doubled(value)]


def _tensor_format(model: nn.Module, latents: Tensor) -> str | None:
    """FasterCache's word for the order of a latent's axes; None for packed ones."""
    channels = getattr(model, "config", {}).get("in_channels")
    if latents.dim() == 4:
        return "BCHW"
    if latents.dim() == 5:
        return "BCFHW" if latents.shape[1] == channels else "BFCHW"
    return None


@dataclass
class TextVersions:
    """What text-kv's keys and values were computed from, by context.

    diffusers keeps them by the text's address alone; a callback may write there, or set an
    adapter's weight, in the middle of a call.
    """

    followed: Followed
    projections: Callable[[], list[nn.Module]]
    identities: Identities = field(default_factory=Identities)
    versions: dict[str, object] = field(default_factory=dict)

    def before(self, conditioning: Tensor | None) -> None:
        """Before each evaluation: forget what was computed from something else."""
        name, version = self.followed.evaluation.context, self._version(conditioning)
        if version is None or self.versions.get(name, version) != version:
            diffusers_caches.forget(self.followed.model)
            self.versions.clear()
        self.versions[name] = version

    def _version(self, conditioning: Tensor | None) -> object:
        """None where nothing counts the writes to it: it is an inference tensor."""
        writes = None if conditioning is None else pytorch.writes_to(conditioning)
        if writes is None:
            return None
        return writes, counted_version(self.projections(), self.identities)


# ---- the fix


@contextmanager
def _transformer_cached(
    pipeline: DiffusionPipeline, model: nn.Module, settings: Settings
) -> Iterator[None]:
    evaluation = Evaluation()
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        stack.enter_context(diffusers_caches.hooks_restored(model))
        running = stack.enter_context(followed(pipeline, "step-cache"))
        KINDS[kind_of(model, settings)].install(model, evaluation, settings)
        hooks = diffusers_caches.stateful_hooks(model)
        follower = Followed(pipeline, model, running, evaluation, hooks)
        stack.enter_context(follower.announcing())
        stack.enter_context(patched(model, "forward", _placed(follower, settings)))
        yield


def _placed(follower: Followed, settings: Settings) -> Callable[..., object]:
    """The model's forward, each evaluation in its own context."""
    kind = kind_of(follower.model, settings)
    forward = follower.model.forward
    parameters = list(inspect.signature(forward).parameters)
    ratios = MagRatios(follower, settings)
    texts = _text_versions(follower) if kind == "text-kv" else None

    @functools.wraps(forward)
    def call(*args: object, **kwargs: object) -> object:
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        latents = first_tensor(*args, *kwargs.values())
        conditioning = conditioning_of(arguments)
        follower.enter(conditioning, latents)
        if texts is not None:
            texts.before(conditioning)
        if kind == "mag":
            ratios.before()
        if kind == "faster":
            _split_where_guided(follower, kwargs, latents)
        timestep = arguments.get("timestep") if kind == "sea" else None
        with follower.context(timestep if isinstance(timestep, Tensor) else None):
            result = forward(*args, **kwargs)
            if kind == "mag":
                ratios.after()
        return result

    return call


def _text_versions(follower: Followed) -> TextVersions:
    return TextVersions(follower, diffusers_caches.text_projections(follower.model))


def kind_of(model: nn.Module, settings: Settings) -> str:
    """The kind that the settings name, or the one that such a model has."""
    named = text(settings, "kind")
    return named or (UNETS if hasattr(model, "down_blocks") else TRANSFORMERS)


@contextmanager
def _cached(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        for model in denoisers(pipeline):
            on = deep_cached if kind_of(model, settings) == UNETS else _transformer_cached
            stack.enter_context(on(pipeline, model, settings))
        yield


def _applies(pipeline: DiffusionPipeline, device: object, settings: Settings) -> str | None:
    return first_reason(
        needs_denoiser(pipeline, device, settings),  # type: ignore[arg-type]
        one_of(settings, "kind", ("", UNETS, *KINDS)),
        None if number(settings, "every") >= 2 else "every must be 2 or more",
        None if number(settings, "threshold") >= 0 else "threshold must be 0 or more",
        None if number(settings, "full_steps") >= 0 else "full_steps must be 0 or more",
        hard_prompts.refusal(settings, in_one_batch=hugging_face.guides_in_one_batch(pipeline)),
        *(_uncachable(pipeline, model, settings) for model in denoisers(pipeline)),
    )


def _uncachable(pipeline: DiffusionPipeline, model: nn.Module, settings: Settings) -> str | None:
    name = kind_of(model, settings)
    if name not in KINDS:
        if not hasattr(model, "down_blocks"):
            return "kind 'deep' is for UNets; leave kind out"
        return None if len(model.up_blocks) > 1 else "its UNet has a single resolution"  # type: ignore[arg-type]
    if hasattr(model, "down_blocks"):
        return f"kind {name!r} is for transformers; leave kind out"
    if number(settings, "full_steps") or settings["hard"]:
        return f"full_steps and hard are for kind 'deep'; kind {name!r} keeps its own first steps"
    kind = KINDS[name]
    if not hasattr(caches, kind.function):
        return f"diffusers {diffusers.__version__} has no cache of kind {name!r}"
    return first_reason(
        _untold(pipeline, model), kind.refuse(pipeline, model), _no_effect(model, name, settings)
    )


def _untold(pipeline: DiffusionPipeline, model: nn.Module) -> str | None:
    """A reason where nothing says which evaluation is which."""
    parameters = inspect.signature(model.forward).parameters
    if conditions(parameters) or hugging_face.sets_cache_contexts(pipeline):
        return None
    return (
        "its call sets no cache context, and its transformer is given nothing by which two "
        "evaluations of one step could be told apart"
    )


def _no_effect(model: nn.Module, name: str, settings: Settings) -> str | None:
    """Why the cache cannot be put on this model, or does nothing on it: it is put on, and taken
    off."""
    with restored(model), diffusers_caches.hooks_restored(model):
        before = len(diffusers_caches.stateful_hooks(model))
        try:
            KINDS[name].install(model, Evaluation(), settings)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            return f"diffusers cannot put its {name} cache on it ({first_line(error)})"
        least = 2 if name in ("faster", "text-kv") else 1  # one is on the model itself
        if len(diffusers_caches.stateful_hooks(model)) - before < least:
            return f"diffusers' {name} cache knows none of its layers"
    return None


def not_together(pipeline: DiffusionPipeline, chosen: Sequence[ChosenFix]) -> str | None:
    """Why this plan's cache does not go with its other fixes on this pipeline, or None."""
    by_name = {choice.fix.name: choice for choice in chosen}
    cache = by_name.get("step-cache")
    if cache is None:
        return None
    interval = by_name.get("guidance-interval")
    if interval is not None and cache.settings["hard"] and number(interval.settings, "start") > 0:
        return (
            "step-cache and guidance-interval exclude each other as they are set: hard looks at "
            "what guidance changes on the first steps. Leave start at 0"
        )
    if "loop-graph" in by_name and cache.settings["hard"] and device_of(pipeline).type != "cpu":
        return (
            "step-cache and loop-graph exclude each other as they are set: hard reads a score in "
            "the middle of the loop, which a captured one cannot wait for. Leave hard empty"
        )
    if (
        "loop-graph" in by_name
        and device_of(pipeline).type == "cpu"
        and by_name["loop-graph"].settings["backend"] == "inductor"
    ):
        return (
            "step-cache and loop-graph exclude each other as they are set: Inductor would break "
            "the step at each block. Use backend = 'openvino', or denoiser-compile"
        )
    for fix, settings in chosen:
        if fix.name == "loop-graph" or "denoiser" in components_of(settings):
            reason = first_reason(*(_one_pass(m, cache.settings) for m in denoisers(pipeline)))
            if reason:
                return f"step-cache and {fix.name} exclude each other: {reason}"
    return None


def _one_pass(model: nn.Module, settings: Settings) -> str | None:
    if kind_of(model, settings) != UNETS:
        return "a converted denoiser has no blocks to skip"
    return no_two_passes(model)


STEP_CACHE = FixCode(_applies, _cached)
