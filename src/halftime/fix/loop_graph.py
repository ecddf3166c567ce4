"""loop-graph: the whole denoising loop at once, as one CUDA graph or one compiled CPU function.

The pipeline's own loop still runs, but its first evaluation of the denoiser runs all the steps
(model, guidance, table step), and the scheduler hands out the result at the end. A call that needs
to see single steps (a callback, adapters, guidance rescale, a partial loop) runs the pipeline's own
way, and so does every call after a capture has failed.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import psutil
import torch
from torch import Tensor, nn

from halftime.base.errors import HalftimeWarning, first_line
from halftime.fix.base import FixCode, Settings, first_reason, needs_denoiser, number, one_of
from halftime.fix.calls import followed
from halftime.fix.compilation import DEFAULTS, compile_with
from halftime.fix.conditioning import conditioning_of
from halftime.fix.deep_cache import Build, CachedForward, beneath
from halftime.fix.guidance_interval import GuidedWithin, second_half
from halftime.fix.memory_watch import MemoryWatch
from halftime.fix.openvino import converter, missing, precision_reason
from halftime.fix.runtime import Converted
from halftime.fix.schedule_table import OUTPUT, SAMPLE, ScheduleTable
from halftime.fix.scheduling import cannot_be_replaced, not_linear, scheduler_in_place
from halftime.fix.table_scheduler import draw_noise, tabled, take_table
from halftime.fix.undo import like
from halftime.pipeline.change import intercepted, patched
from halftime.pipeline.components import denoisers
from halftime.pipeline.device import device_of
from halftime.pipeline.state import adapter_layers, adapter_settings
from halftime.upstream import pytorch
from halftime.upstream.hugging_face import guides_in_one_batch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

# Pipelines whose loop is: cat, scale, unet, guide, step. Others draw on the step's values in
# between.
KNOWN = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
# A call with any of these (other than the value beside it) wants to see or change single steps.
_OWN_WAY: dict[str, object] = {
    "callback_on_step_end": None,
    "callback": None,
    "cross_attention_kwargs": None,
    "guidance_rescale": 0.0,
    "denoising_end": None,
    "ip_adapter_image": None,
    "ip_adapter_image_embeds": None,
}

BACKENDS = ("inductor", "openvino", "eager")  # on the CPU; on CUDA the loop is captured

Forward = Callable[..., object]
Loop = Callable[[list[Tensor]], Tensor]  # the inputs of a loop -> the last latents
# scales, weights, timesteps, guidance, further arguments of the denoiser
Varying = tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, object]]

# Kept at once, the least recently used is dropped. Fewer than the runs of the memory watch, so that
# a client who asks for another number of steps each time is no leak.
MOST_GRAPHS = 4


@dataclass(frozen=True)
class Dense:
    """A table with the same shape for every step, so that one compiled step serves them all.

    TableStep k: the next sample and what is remembered, stacked, are `weights[k]` (1 + memory, 2 +
    memory + noise) times the stack of sample, model output, memory and noise; slots that a step
    does not use weigh nothing. `scales[k]` is what the sample is multiplied with before the
    denoiser sees it.
    """

    scales: Tensor  # steps
    weights: Tensor  # steps, 1 + memory, 2 + memory + noise
    memory: int
    noise: int


def dense(table: ScheduleTable, device: torch.device) -> Dense:
    """The coefficients of all steps as one tensor."""
    states = sorted({name for step in table.steps for name in step.states})
    draws = max(len(step.draws) for step in table.steps)
    sources = [SAMPLE, OUTPUT, *states, *(f"noise:{index}" for index in range(draws))]
    weights = torch.zeros(len(table.steps), 1 + len(states), len(sources))
    for k, step in enumerate(table.steps):
        for row, terms in enumerate((step.out, *(step.states.get(name, ()) for name in states))):
            for source, weight in terms:
                weights[k, row, sources.index(source)] = weight
    scales = torch.tensor([step.scale for step in table.steps])
    return Dense(scales.to(device), weights.to(device), len(states), draws)


@dataclass(frozen=True)
class DenoisingLoop:
    """What one loop depends on. Every tensor in it varies; the rest is the same in all calls of one
    graph."""

    dense: Dense
    timesteps: Tensor  # steps
    guidance: Tensor | None  # None: no guidance, one evaluation a picture
    # further keyword arguments of the denoiser, the same on every step
    arguments: dict[str, object]
    dtypes: tuple[torch.dtype, ...]  # of each step's result
    interval: GuidedWithin | None = None  # which steps guidance is on; None: all

    def guides(self, step: int) -> bool:
        """Whether a step is evaluated with guidance."""
        return self.guidance is not None and (
            self.interval is None or self.interval.guides(step, len(self.timesteps))
        )


def guided_step(
    forward: Forward,
    sample: Tensor,
    t: Tensor,
    scale: Tensor,
    weights: Tensor,
    further: tuple[Tensor, ...],
    guidance: Tensor | None,
    arguments: dict[str, object],
) -> Tensor:
    """One step: scale, denoise, guide, and the table's row. Returns the next sample and the memory,
    stacked, in fp32.

    `further`: memory …, noise …; what the table multiplies besides the sample and the model's
    output. Scale and guidance are tensors without dimensions, so that a compiler takes them for
    values and not for constants.
    """
    model_input = (sample if guidance is None else torch.cat([sample] * 2)) * scale
    output = forward(model_input, t, **arguments)[0].float()  # type: ignore[index]
    if guidance is not None:
        unconditional, conditional = output.chunk(2)
        output = unconditional + guidance * (conditional - unconditional)
    stacked = torch.stack([sample.float(), output, *further])
    # Not a matrix product: runtimes that compute in bf16 would round the latents for it.
    return (weights.reshape(*weights.shape, *[1] * sample.ndim) * stacked).sum(dim=1)


def full_step(cached: CachedForward, *args: object) -> tuple[Tensor, object, Tensor]:
    """`guided_step` over a whole UNet: also its deep features, and what it answered."""
    results: list[tuple[object, object]] = []

    def forward(*args: object, **kwargs: object) -> object:
        results.append(cached.full(*args, **kwargs))
        return results[0][0]

    stacked = guided_step(forward, *args)  # type: ignore[arg-type]
    answer, features = results[0]
    return stacked, features, answer[0]  # type: ignore[index]


def shallow_step(cached: CachedForward, features: object, *args: object) -> Tensor:
    """`guided_step` over the outermost resolution, on features that a full step gave."""
    return guided_step(functools.partial(cached.shallow, features), *args)  # type: ignore[arg-type]


class CachedStep:
    """The step of a loop whose UNet has a cache: full or shallow, as the cache decides."""

    def __init__(self, cached: CachedForward, build: Build) -> None:
        self.cached, self.step = cached, 0
        self.full = build(functools.partial(full_step, cached))
        self.shallow = build(functools.partial(shallow_step, cached))

    def begin(self) -> None:
        """Before each loop."""
        self.step = 0

    def __call__(
        self,
        sample: Tensor,
        t: Tensor,
        scale: Tensor,
        weights: Tensor,
        further: tuple[Tensor, ...],
        guidance: Tensor | None,
        arguments: dict[str, object],
    ) -> Tensor:
        step, self.step = self.step, self.step + 1
        values = (sample, t, scale, weights, further, guidance, arguments)
        batch = sample.shape[0] * (1 if guidance is None else 2)
        if self.cached.decide(step, batch, conditioning_of(arguments)):
            return self.shallow(self.cached.features, *values)  # type: ignore[return-value]
        results = cast("tuple[Tensor, object, Tensor]", self.full(*values))
        stacked, self.cached.features, answer = results
        self.cached.see(step, answer, guided=guidance is not None)
        return stacked


def run_loop(
    step: Callable[..., Tensor], loop: DenoisingLoop, sample: Tensor, noise: list[list[Tensor]]
) -> Tensor:
    """All steps, from the first latents to the last."""
    empty = torch.zeros_like(sample, dtype=torch.float32)
    memory = [empty] * loop.dense.memory
    alone = _conditional(loop, len(sample))
    for k, t in enumerate(loop.timesteps):
        draws = [draw.float() for draw in noise[k]] + [empty] * (loop.dense.noise - len(noise[k]))
        row = (loop.dense.scales[k], loop.dense.weights[k], (*memory, *draws))
        guided = (loop.guidance, loop.arguments) if loop.guides(k) else (None, alone)
        result = step(sample, t, *row, *guided)
        sample, memory = result[0].to(loop.dtypes[k]), list(result[1:])
    return sample


def _conditional(loop: DenoisingLoop, batch: int) -> dict[str, object]:
    """The denoiser's arguments on a step without guidance."""
    if loop.guidance is None or loop.interval is None:
        return loop.arguments
    half = second_half(loop.arguments, 2 * batch)
    assert isinstance(half, dict)
    return half


@dataclass
class Captured:
    """A loop as a CUDA graph. A graph knows addresses and keeps nothing alive: all that it reads
    lies in `inputs`, which belong to it, but for the denoiser's weights, which are the user's
    (`weights_of`). `graph` needs `replay` and `reset`, so that tests can pass a fake."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    result: Tensor

    def __call__(self, values: list[Tensor]) -> Tensor:
        for static, value in zip(self.inputs, values, strict=True):
            static.copy_(value)
        self.graph.replay()
        return self.result.clone()  # the next replay writes over it


def capture(function: Loop, values: list[Tensor]) -> Captured:
    """Record `function` on static copies of `values` (CUDA only), on the device that they are on.

    Other threads go on launching and allocating meanwhile, which a capture in CUDA's global mode
    would not survive.
    """
    device = values[0].device
    with torch.cuda.device(device):
        static = [value.clone() for value in values]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # lazily made handles and workspaces must exist before the capture
                function(static)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Without `stream` torch takes one on the first card that it ever captured on.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = function(static)
    return Captured(graph, static, result)


def weights_of(denoiser: nn.Module) -> tuple[object, ...]:
    """What a graph of this denoiser has in it besides its inputs: where the weights lie, and how
    its adapters are set. Where one of them changes, the graph is another model's."""
    places = tuple(weight.data_ptr() for weight in (*denoiser.parameters(), *denoiser.buffers()))
    return places, tuple(map(adapter_settings, adapter_layers(denoiser)))


@dataclass
class Takeover:
    """The state of one pipeline under this fix."""

    pipeline: DiffusionPipeline
    forward: Forward  # the pipeline's own
    guided: Callable[..., Tensor]  # guided_step over the denoiser, compiled or not
    scheduler: SchedulerMixin
    capture: Callable[[Loop, list[Tensor]], Loop] | None
    watch: MemoryWatch
    interval: GuidedWithin | None = None
    graphs: OrderedDict[object, Loop] = field(default_factory=OrderedDict)  # the last used is last
    weights: tuple[object, ...] = ()  # of the denoiser, when the graphs were captured
    table: ScheduleTable | None = None  # the last one
    dense: Dense | None = None  # that table's
    arguments: dict[str, object] = field(default_factory=dict)  # of the denoiser, in this call
    own_way: bool = False  # this call runs as the pipeline wrote it
    broken: str = ""  # a capture failed: every call does
    doubled: Tensor | None = None
    result: Tensor | None = None
    step: int = 0

    def begin_call(self, arguments: dict[str, object]) -> dict[str, object]:
        """Before each call of the pipeline: whether the loop may be taken over."""
        self.step, self.result, self.doubled = 0, None, None
        self.own_way = bool(self.broken) or any(
            arguments.get(name, plain) != plain for name, plain in _OWN_WAY.items()
        )
        return arguments

    # What the pipeline's loop calls, in this order.

    def scale_model_input(
        self, original: Forward, sample: Tensor, *args: object, **kwargs: object
    ) -> object:
        if self.own_way:
            return original(sample, *args, **kwargs)
        if self.step == 0:
            self.doubled = sample
        return sample

    def denoise(self, sample: Tensor, timestep: Tensor, *args: object, **kwargs: object) -> object:
        """In place of the denoiser: note the arguments, and return zeros until the loop has the
        generator."""
        if self.own_way:
            return self.forward(sample, timestep, *args, **kwargs)
        if self.result is not None:
            return (torch.zeros_like(sample),)
        if args or kwargs.get("return_dict", True):
            return self._give_up(
                "its loop calls the denoiser in an unknown way", sample, timestep, *args, **kwargs
            )
        self.result = torch.zeros_like(sample)  # until `step_through` has the generator
        self.arguments = kwargs
        return (self.result,)

    def step_through(
        self, original: Forward, output: Tensor, t: Tensor, sample: Tensor, **kwargs: object
    ) -> object:
        """In place of the scheduler: the first step runs the loop, the last returns its end."""
        if self.own_way:
            return original(output, t, sample, **kwargs)
        if self.step == 0:
            self.result = self._run(sample, **kwargs)
        self.step += 1
        last = self.step == len(self.scheduler.timesteps)
        return (self.result if last else sample,)

    def _give_up(self, why: str, *args: object, **kwargs: object) -> object:
        """Only before the first evaluation, when nothing has been skipped yet."""
        self.broken, self.own_way = why, True
        warnings.warn(
            f"loop-graph: {why}; running the pipeline's own loop.", HalftimeWarning, stacklevel=2
        )
        sample, t, *more = args
        return self.forward(self.scheduler.scale_model_input(sample, t), t, *more, **kwargs)

    # The loop itself.

    def _run(self, sample: Tensor, **kwargs: object) -> Tensor:
        extra = {k: v for k, v in kwargs.items() if k not in ("generator", "return_dict")}
        table, dtypes = take_table(self.scheduler, extra, sample)
        guided = bool(self.pipeline.do_classifier_free_guidance)
        guidance = (
            torch.full((), self.pipeline.guidance_scale, device=sample.device) if guided else None
        )
        arguments = {**self.arguments, "return_dict": False}
        loop = DenoisingLoop(
            self._dense(table, sample.device),
            self.scheduler.timesteps,
            guidance,
            arguments,
            tuple(r[0] for r in dtypes),
            self.interval,
        )
        noise = [
            [
                draw_noise(d, dtype, sample, kwargs.get("generator"))  # type: ignore[arg-type]
                for d, dtype in zip(step.draws, row[1:], strict=True)
            ]
            for step, row in zip(table.steps, dtypes, strict=True)
        ]
        return self._through_graph(loop, sample, noise)

    def _dense(self, table: ScheduleTable, device: torch.device) -> Dense:
        if self.dense is None or self.table is not table:
            self.table, self.dense = table, dense(table, device)
        return self.dense

    def _through_graph(
        self, loop: DenoisingLoop, sample: Tensor, noise: list[list[Tensor]]
    ) -> Tensor:
        leaves, spec = pytorch.tree_flatten((sample, noise, _varying(loop)))
        values = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        constants = tuple((type(leaf), leaf) for leaf in leaves if not isinstance(leaf, Tensor))

        def function(tensors: list[Tensor]) -> Tensor:
            remaining = iter(tensors)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            x, draws, varying = pytorch.tree_unflatten(filled, spec)
            if isinstance(self.guided, CachedStep):
                self.guided.begin()
            return run_loop(self.guided, _with(loop, varying), x, draws)

        if self.capture is None or self.broken or not _can_be_keys(constants):
            return function(values)
        # A number on the host would be read once, at the capture.
        values = [value.to(sample.device) for value in values]
        shapes = tuple((value.shape, value.stride(), value.dtype) for value in values)
        key = (spec, constants, shapes, loop.dtypes, sample.device)
        try:
            result = self._graph(key, function, values)(values)
        except (RuntimeError, torch.AcceleratorError) as error:
            self._drop(f"the loop could not be captured ({first_line(error)})")
            return function(values)
        if self.watch.grew():
            self._drop(f"{self.watch.message()}; run 'halftime profile' again")
        return result

    def _graph(self, key: object, function: Loop, values: list[Tensor]) -> Loop:
        """The graph of a key, which holds values, no addresses; captured where there is none."""
        assert self.capture is not None
        weights = weights_of(denoisers(self.pipeline)[0])
        if weights != self.weights:
            self.release()
        self.weights = weights
        if key not in self.graphs:
            while len(self.graphs) >= MOST_GRAPHS:
                release(self.graphs.popitem(last=False)[1])
                give_back()
            self.graphs[key] = self.capture(function, values)
        self.graphs.move_to_end(key)
        return self.graphs[key]

    def _drop(self, why: str) -> None:
        self.release()
        self.broken = why
        warning = f"loop-graph: {why}. The graph is dropped; the loop runs without it."
        warnings.warn(warning, HalftimeWarning, stacklevel=2)

    def release(self) -> None:
        """Give the graphs' memory pools back."""
        while self.graphs:
            release(self.graphs.popitem()[1])
        give_back()


def release(graph: Loop) -> None:
    """Let go of what a captured graph holds; a loop that is not one holds nothing."""
    if isinstance(graph, Captured):
        graph.graph.reset()


def give_back() -> None:
    """What a released graph's pool held goes back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _varying(loop: DenoisingLoop) -> Varying:
    """All that a loop reads, as one tree."""
    dense = loop.dense
    return (dense.scales, dense.weights, loop.timesteps, loop.guidance, loop.arguments)


def _with(loop: DenoisingLoop, varying: Varying) -> DenoisingLoop:
    """The loop on other tensors."""
    scales, weights, timesteps, guidance, arguments = varying
    dense = replace(loop.dense, scales=scales, weights=weights)
    return replace(loop, dense=dense, timesteps=timesteps, guidance=guidance, arguments=arguments)


def _can_be_keys(constants: tuple[object, ...]) -> bool:
    try:
        hash(constants)
    except TypeError:
        return False
    return True


@contextmanager
def _apply(pipeline: DiffusionPipeline, settings: Settings) -> Iterator[None]:
    device = device_of(pipeline)
    unet = denoisers(pipeline)[0]
    scheduler = tabled(pipeline.scheduler)
    interval = beneath(unet.forward, GuidedWithin)
    forward = unet.forward if interval is None else interval.forward
    guided = _step_function(forward, _builder(unet, device, settings))
    watch = MemoryWatch(_reader(device), limit=int(number(settings, "watch_bytes")))
    state = Takeover(
        pipeline=pipeline,
        forward=unet.forward,
        guided=guided,
        scheduler=scheduler,
        capture=capture if device.type == "cuda" else None,
        watch=watch,
        interval=interval,
    )
    scale, step = scheduler.scale_model_input, scheduler.step
    with ExitStack() as stack:
        stack.enter_context(scheduler_in_place(pipeline, scheduler))
        stack.enter_context(intercepted(pipeline, state.begin_call))
        stack.enter_context(followed(pipeline, "loop-graph"))
        stack.callback(state.release)
        scaled = like(scale, functools.partial(state.scale_model_input, scale))
        stepped = like(step, functools.partial(state.step_through, step))
        stack.enter_context(patched(scheduler, "scale_model_input", scaled))
        stack.enter_context(patched(scheduler, "step", stepped))
        stack.enter_context(patched(unet, "forward", like(unet.forward, state.denoise)))
        yield


def _step_function(forward: Forward, build: Build) -> Callable[..., Tensor]:
    """`guided_step` over the denoiser, built; where a cache is on it, as both of its passes."""
    cached = beneath(forward, CachedForward)
    if cached is not None:
        return CachedStep(cached, build)
    return cast("Callable[..., Tensor]", build(functools.partial(guided_step, forward)))


def _builder(unet: nn.Module, device: torch.device, settings: Settings) -> Build:
    """Who compiles a step: on the CPU the backend that the settings name."""
    if device.type != "cpu" or settings["backend"] == "eager":
        return lambda function: function
    if settings["backend"] == "openvino":
        convert = converter({"precision": settings["precision"]})
        return functools.partial(Converted, unet, convert=convert)
    return functools.partial(compile_with, settings=DEFAULTS, device=device)


def _reader(device: torch.device) -> Callable[[], int]:
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    process = psutil.Process()
    return lambda: int(process.memory_info().rss)


def _applies(pipeline: DiffusionPipeline, device: torch.device, settings: Settings) -> str | None:
    loop_is_known = type(pipeline).__name__ in KNOWN and guides_in_one_batch(pipeline)
    return first_reason(
        needs_denoiser(pipeline, device, settings),
        _backend_reason(device, settings),
        None if loop_is_known else f"it knows the loops of {' and '.join(KNOWN)} only",
        cannot_be_replaced(pipeline) or not_linear(pipeline.scheduler) if loop_is_known else None,
        "the scheduler evaluates more than once a step"
        if getattr(pipeline.scheduler, "order", 1) != 1
        else None,
    )


def _backend_reason(device: torch.device, settings: Settings) -> str | None:
    if settings["backend"] != "openvino":
        return one_of(settings, "backend", BACKENDS)
    if device.type != "cpu":
        return f"backend 'openvino' runs on the CPU; this pipeline is on {device.type}"
    return first_reason(missing(), precision_reason(settings))


LOOP_GRAPH = FixCode(_applies, _apply)
