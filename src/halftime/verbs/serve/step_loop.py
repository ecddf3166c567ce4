"""A request as plain data between two steps, and what is done with it: begin, advance, finish.

Before and after the loop the pipeline's own code runs. `begin` calls a shallow copy of the pipeline
whose denoiser notes what it is first given, and leaves; `finish` calls one whose schedule has no
steps, with the latents that came out. In between, `advance` takes any loops of one shape through
one forward pass, each at a step of its own. Alone in it, a loop computes what the pipeline's call
computes, bit for bit, however often it was put aside.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from halftime.base.errors import DoesNotApply
from halftime.fix.table_scheduler import is_tabled, twin_of
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin
    from torch import nn


class LoopKind(NamedTuple):
    """How the loop of some pipelines calls its denoiser."""

    denoiser: str  # the component's name
    scales: bool  # asks the scheduler to scale the denoiser's input
    sample: str = ""  # the keyword of the sample, the timestep's is 'timestep'; '': both by place
    divisor: int | None = None  # of the timestep
    shared: tuple[str, ...] = ()  # keywords that have no row for each picture


# Loops that are: double, scale, denoise, guide, step. A new one is a row here; `step_proof` then
# shows at every start whether it is true.
LOOPS: Mapping[str, LoopKind] = {
    "StableDiffusionPipeline": LoopKind("unet", scales=True),
    "StableDiffusionXLPipeline": LoopKind("unet", scales=True),
    "StableDiffusion3Pipeline": LoopKind("transformer", scales=False, sample="hidden_states"),
    "FluxPipeline": LoopKind(
        "transformer",
        scales=False,
        sample="hidden_states",
        divisor=1000,
        shared=("txt_ids", "img_ids"),
    ),
}


@dataclass
class Loop:
    """One request between two steps. Its solver's coefficients and memory are in its scheduler."""

    latents: Tensor  # [1, ...]
    timesteps: Tensor
    scheduler: SchedulerMixin
    step_arguments: dict[str, object]  # of the scheduler's step: the generator, eta
    arguments: dict[str, object]  # of the denoiser, the same at every step: the embeddings
    guidance: float | None  # None: one row for a picture
    call: dict[str, object]  # the keyword arguments of the pipeline's call
    embeddings: object  # what encode_prompt gave
    shape: Hashable  # equal for loops that may share a forward pass
    step: int = 0

    @property
    def done(self) -> bool:
        return self.step == len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        return self.timesteps[self.step]

    @property
    def rows(self) -> int:
        """In a forward pass."""
        return 1 if self.guidance is None else 2

    @property
    def size(self) -> int:
        """Bytes that it holds while it is put aside."""
        remembered = [
            tensor
            for value in vars(self.scheduler).values()
            for tensor in (value if isinstance(value, list) else [value])
        ]
        leaves = pytorch.tree_leaves([self.latents, self.arguments, self.embeddings, remembered])
        tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class Estimate(NamedTuple):
    """What one step of a loop started from: enough for a preview."""

    output: Tensor  # of the denoiser, guided
    timestep: Tensor
    sample: Tensor


# ---- before the loop


class _AtTheLoop(BaseException):
    """The denoiser was called. Not an Exception, so nothing eats it."""

    def __init__(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        super().__init__()
        self.arguments = (args, kwargs)


class _Leaving:
    """In the place of the denoiser: like it in everything but its call."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise _AtTheLoop(args, kwargs)


def loop_kind(pipeline: DiffusionPipeline) -> LoopKind | None:
    """How this pipeline's loop is; None where that is not known."""
    return LOOPS.get(type(pipeline).__name__)


def begin(
    pipeline: DiffusionPipeline, scheduler: SchedulerMixin, call: Mapping[str, object]
) -> Loop:
    """Everything before the loop of one picture. `scheduler` is copied.

    Raises DoesNotApply where the loop is not as its kind says.
    """
    kind = loop_kind(pipeline)
    if kind is None:
        raise DoesNotApply(f"the loop of {type(pipeline).__name__} is not known")
    own, noted = own_scheduler(scheduler), list[object]()
    sketch = _with_parts(
        pipeline, {"scheduler": own, kind.denoiser: _Leaving(getattr(pipeline, kind.denoiser))}
    )
    vars(sketch)["encode_prompt"] = _noting(sketch.encode_prompt, noted)
    vars(own)["scale_model_input"] = lambda sample, *args, **kwargs: sample
    try:
        sketch(**call)
    except _AtTheLoop as reached:
        args, kwargs = reached.arguments
    else:
        raise DoesNotApply(f"{type(pipeline).__name__} did not call its {kind.denoiser}")
    finally:
        vars(own).pop("scale_model_input")
    sample, arguments = _split(kind, args, kwargs)
    guidance = None if len(sample) == 1 else float(sketch.guidance_scale)
    if len(sample) > 2 or len(noted) != 1:
        raise DoesNotApply(f"{type(pipeline).__name__} does not draw one picture in one loop here")
    return Loop(
        latents=sample[:1],
        timesteps=own.timesteps[getattr(own, "begin_index", None) or 0 :],
        scheduler=own,
        step_arguments=_step_arguments(sketch, call),
        arguments=arguments,
        guidance=guidance,
        call=dict(call),
        embeddings=noted[0],
        shape=(sample.shape, sample.dtype, *_shape_of(arguments)),
    )


def _with_parts(pipeline: DiffusionPipeline, parts: Mapping[str, object]) -> DiffusionPipeline:
    """A shallow copy with other parts: what a call leaves on the pipeline stays on the copy."""
    sketch = copy.copy(pipeline)
    vars(sketch).update(parts)  # not setattr, which diffusers takes for a change of the config
    return sketch


def _noting(function: Callable[..., object], noted: list[object]) -> Callable[..., object]:
    @functools.wraps(function)
    def noting(*args: object, **kwargs: object) -> object:
        noted.append(function(*args, **kwargs))
        return noted[-1]

    return noting


def _split(
    kind: LoopKind, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Tensor, dict[str, object]]:
    """The sample, and what is the same at every step."""
    constant = {
        name: value for name, value in kwargs.items() if name not in (kind.sample, "timestep")
    }
    sample = kwargs.get(kind.sample) if kind.sample else args[0]
    if not isinstance(sample, Tensor) or kwargs.get("return_dict", True):
        raise DoesNotApply("its loop calls the denoiser in an unknown way")
    return sample, constant


def _step_arguments(sketch: DiffusionPipeline, call: Mapping[str, object]) -> dict[str, object]:
    prepare = getattr(sketch, "prepare_extra_step_kwargs", None)
    return {} if prepare is None else dict(prepare(call.get("generator"), 0.0))


def _shape_of(arguments: dict[str, object]) -> tuple[Hashable, ...]:
    leaves, spec = pytorch.tree_flatten(arguments)
    shapes = [
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves
    ]
    return (str(spec), *shapes)


def own_scheduler(template: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of one request's own: its steps reach no other's."""
    return twin_of(template) if is_tabled(template) else copy.deepcopy(template)


# ---- in the loop


@torch.no_grad()
def advance(
    pipeline: DiffusionPipeline,
    loops: Sequence[Loop],
    denoise: Callable[..., tuple[Tensor, ...]] | None = None,
) -> list[Estimate]:
    """One step of each loop, all through one forward pass; all have the same `shape`. `denoise`
    stands in for the denoiser where it is there.

    Where the forward pass fails, no loop has changed.
    """
    kind = LOOPS[type(pipeline).__name__]
    outputs = _forward(kind, denoise or getattr(pipeline, kind.denoiser), loops)
    return [_step(loop, output) for loop, output in zip(loops, outputs, strict=True)]


def _forward(
    kind: LoopKind, denoise: Callable[..., tuple[Tensor, ...]], loops: Sequence[Loop]
) -> Sequence[Tensor]:
    sample = _rows([_model_input(kind, loop) for loop in loops])
    # alone as the pipeline's own call has it, so that what is compiled for that serves this too
    of_all = len(loops) == 1 and not kind.sample
    timestep = loops[0].timestep if of_all else _rows([_timestep(kind, loop) for loop in loops])
    arguments = {
        name: value if name in kind.shared else _together([loop.arguments[name] for loop in loops])
        for name, value in loops[0].arguments.items()
    }
    if kind.sample:
        arguments |= {kind.sample: sample, "timestep": timestep}
    output = denoise(*(() if kind.sample else (sample, timestep)), **arguments)[0]
    return cast("Sequence[Tensor]", output.split([loop.rows for loop in loops]))


def _model_input(kind: LoopKind, loop: Loop) -> Tensor:
    sample = torch.cat([loop.latents] * loop.rows)
    return loop.scheduler.scale_model_input(sample, loop.timestep) if kind.scales else sample


def _timestep(kind: LoopKind, loop: Loop) -> Tensor:
    timestep = loop.timestep.expand(loop.rows)
    return timestep if kind.divisor is None else timestep.to(loop.latents.dtype) / kind.divisor


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _together(values: Sequence[object]) -> object:
    """One argument of all loops: the rows of its tensors, the rest as it is."""
    flat = [pytorch.tree_flatten(value) for value in values]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    joined = [
        _rows(column) if isinstance(column[0], Tensor) and column[0].ndim else column[0]
        for column in columns
    ]
    return pytorch.tree_unflatten(joined, flat[0][1])


def _step(loop: Loop, output: Tensor) -> Estimate:
    if loop.guidance is not None:
        unconditional, conditional = output.chunk(2)
        output = unconditional + loop.guidance * (conditional - unconditional)
    before = Estimate(output, loop.timestep, loop.latents)
    after = loop.scheduler.step(
        output, loop.timestep, loop.latents, **loop.step_arguments, return_dict=False
    )[0]
    loop.latents, loop.step = after.to(loop.latents.dtype), loop.step + 1
    return before


# ---- after the loop


def finish(pipeline: DiffusionPipeline, loop: Loop) -> object:
    """Everything after the loop: what the pipeline's call would have returned."""
    sketch = _with_parts(pipeline, {"scheduler": _without_steps(loop.scheduler)})
    vars(sketch)["encode_prompt"] = lambda *args, **kwargs: loop.embeddings
    return sketch(**loop.call | {"latents": loop.latents, "num_inference_steps": 1})


def _without_steps(scheduler: SchedulerMixin) -> SchedulerMixin:
    """One whose schedule is empty, and that leaves the latents it is given as they are."""
    kind = type(scheduler)
    nothing = scheduler.timesteps[:0]

    @functools.wraps(kind.set_timesteps)  # pipelines look at the signature
    def set_timesteps(self: SchedulerMixin, *args: object, **kwargs: object) -> None:
        vars(self).update(timesteps=nothing, num_inference_steps=0)

    methods = {"set_timesteps": set_timesteps, "init_noise_sigma": 1.0}
    empty: object = object.__new__(type(kind.__name__, (kind,), methods))
    vars(empty).update(
        {name: value for name, value in vars(scheduler).items() if name != "init_noise_sigma"}
    )
    return cast("SchedulerMixin", empty)


def refusal(pipeline: DiffusionPipeline) -> str | None:
    """Why the requests of this pipeline cannot be scheduled at the step; None where they may be."""
    kind = loop_kind(pipeline)
    if kind is None:
        return f"the loop of {type(pipeline).__name__} is not known ({', '.join(LOOPS)} are)"
    if hugging_face.accelerate_hook(getattr(pipeline, kind.denoiser)) is not None:
        return f"its {kind.denoiser} is offloaded, and would be moved at every step"
    return None
