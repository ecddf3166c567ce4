"""A scheduler as a table: the exact coefficients of every step, read off a run on basis vectors.

Most samplers (Euler, DDIM, DPM++, UniPC, Heun, PNDM, DEIS, flow matching, and the ancestral ones)
are linear in the sample, the model's output, the noise that they draw, and the tensors that they
remember between steps. So one run of the scheduler's own code, in which each of these is its own
unit vector, gives the coefficients of each step. The loop then needs no scheduler code: each
step is a fused multiply-add with numbers that the host already knows, so nothing waits for the
device. A scheduler that is not linear (clip_sample, thresholding, a learned variance) disagrees
with its table on a random probe and is refused by name.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from halftime.base.errors import DoesNotApply, first_line

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# unit vectors in one step: the sample, the model's output, a few draws of noise, what is remembered
WIDTH = 48
_SHAPE = (1, WIDTH, 1, 1)
# A fp32 scheduler and its fp32 table differ by rounding; a scheduler that is not linear differs by
# much more.
TOLERANCE = 1e-4
_PROBE_SCALES = (1.0, 20.0)  # clipping and thresholding show at one of them at least

SAMPLE, OUTPUT = "sample", "model_output"
# (source, coefficient); sources: SAMPLE, OUTPUT, 'noise:0', 'state:ets[0]'
Terms = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class NoiseDraw:
    """One draw of noise in a step: from the caller's generator or torch's own."""

    from_generator: bool


@dataclass(frozen=True)
class TableStep:
    """One step: next sample = sum of coefficient x source; the denoised estimate and the memory
    likewise."""

    scale: float  # model input = scale x sample
    out: Terms
    denoised: Terms | None  # pred_original_sample, where the scheduler gives one
    states: Mapping[str, Terms]
    draws: tuple[NoiseDraw, ...]
    results: int = 1  # length of the tuple that the scheduler returns


@dataclass(frozen=True)
class ScheduleTable:
    """All steps of one schedule, from its beginning or from inside it."""

    scheduler: str
    steps: tuple[TableStep, ...]
    remembers: bool = True  # the scheduler keeps tensors of one step for a later one


def build(
    scheduler: SchedulerMixin, begin: int = 0, arguments: Mapping[str, object] | None = None
) -> ScheduleTable:
    """The table of a scheduler whose timesteps are set and live on the host, from step `begin` to
    the end.

    `arguments` are further arguments of its `step`, such as DDIM's `eta`. The scheduler itself is
    not stepped; copies are. Raises DoesNotApply, naming the scheduler and why, where it is not
    linear.
    """
    name = type(scheduler).__name__
    arguments = dict(arguments or {})
    with _refusing(name):
        run = copy.deepcopy(scheduler)
        rows = [_basis_step(run, t, arguments) for t in _schedule(run, begin)]
        remembers = any(row.states for row in rows)
        table = ScheduleTable(name, tuple(_only_live(rows)), remembers)
        _check_linear(table, scheduler, begin, arguments)
    return table


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except DoesNotApply as error:
        raise (
            error
            if name in str(error)
            else DoesNotApply(f"{name} cannot be written as a table: {error}.")
        ) from error
    except Exception as error:
        reason = first_line(error)
        raise DoesNotApply(
            f"{name} cannot be written as a table: {type(error).__name__}: {reason[:160]}"
        ) from error


# ---- the basis run


def _schedule(scheduler: SchedulerMixin, begin: int) -> list[Tensor]:
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return list(scheduler.timesteps[begin:])


def unit(index: int) -> Tensor:
    """The `index`-th unit vector as a picture, a channel for each coordinate: (1, WIDTH, 1, 1).

    In fp64, so that a scheduler that computes in its input's dtype gives coefficients without its
    own rounding.
    """
    return torch.eye(WIDTH, dtype=torch.float64)[index].view(_SHAPE)


def _basis_step(scheduler: SchedulerMixin, t: Tensor, arguments: dict[str, object]) -> TableStep:
    # What the scheduler remembers becomes fresh unit vectors: a step then refers to the memory, not
    # to its past.
    names = [SAMPLE, OUTPUT]
    for path, _, put in list(_memory(scheduler)):
        put(unit(len(names)))
        names.append(f"state:{path}")
    scale = _scale(scheduler, t)
    with NoiseBasis(lambda index: unit(_noise_slot(names, index))) as noise:
        result = _call_step(scheduler, unit(1), t, unit(0), arguments)
    denoised = result[1] if len(result) > 1 and _is_basis(result[1]) else None
    return TableStep(
        scale=scale,
        out=_terms(result[0], names),
        denoised=None if denoised is None else _terms(denoised, names),
        states={f"state:{path}": _terms(tensor, names) for path, tensor, _ in _memory(scheduler)},
        draws=tuple(noise.draws),
        results=len(result),
    )


def _noise_slot(names: list[str], index: int) -> int:
    names.append(f"noise:{index}")
    if len(names) > WIDTH:
        raise DoesNotApply(f"one step has more than {WIDTH} inputs")
    return len(names) - 1


def _scale(scheduler: SchedulerMixin, t: Tensor) -> float:
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    scaled = scheduler.scale_model_input(unit(0), t)
    if not torch.equal(scaled.nonzero(), unit(0).nonzero()):
        raise DoesNotApply("scale_model_input is not a plain factor")
    return float(scaled[0, 0, 0, 0])


def _call_step(
    scheduler: SchedulerMixin,
    output: Tensor,
    t: Tensor,
    sample: Tensor,
    arguments: Mapping[str, object],
) -> tuple[Tensor, ...]:
    extra = dict(arguments)
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = torch.Generator("cpu").manual_seed(0)
    result = scheduler.step(output, t, sample, **extra, return_dict=False)
    return tuple(result)


def _is_basis(value: object) -> bool:
    return isinstance(value, Tensor) and value.shape == _SHAPE


def _memory(scheduler: SchedulerMixin) -> Iterator[tuple[str, Tensor, Callable[[Tensor], None]]]:
    """Where the scheduler keeps tensors of the sample's shape: path, tensor, how to replace it."""
    for name, value in vars(scheduler).items():
        if _is_basis(value):
            yield name, value, functools.partial(vars(scheduler).__setitem__, name)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if _is_basis(item):
                    yield f"{name}[{index}]", item, functools.partial(value.__setitem__, index)


def _terms(value: object, names: list[str]) -> Terms:
    assert isinstance(value, Tensor)
    if value.shape != _SHAPE:
        raise DoesNotApply(f"the step changes the shape to {tuple(value.shape)}")
    coefficients = value.flatten().tolist()
    if not all(map(math.isfinite, coefficients)):
        raise DoesNotApply("its coefficients are not finite")
    return tuple((name, c) for name, c in zip(names, coefficients, strict=False) if c != 0)


def _only_live(steps: list[TableStep]) -> list[TableStep]:
    """Leave out what is remembered but never read again (liveness, from the last step back)."""
    live: list[TableStep] = []
    needed: set[str] = set()
    for step in reversed(steps):
        states = {name: terms for name, terms in step.states.items() if name in needed}
        live.append(
            TableStep(step.scale, step.out, step.denoised, states, step.draws, step.results)
        )
        reads = [step.out, step.denoised or (), *states.values()]
        needed = {source for terms in reads for source, _ in terms if source.startswith("state:")}
    return live[::-1]


class NoiseBasis(TorchFunctionMode):
    """While active, each draw of Gaussian noise is recorded and answered by `give(index)`."""

    def __init__(self, give: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.give = give
        self.draws: list[NoiseDraw] = []
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.randn_like):
            dtype = kwargs.get("dtype") or (
                args[0].dtype if isinstance(args[0], Tensor) else torch.float32
            )
            assert isinstance(dtype, torch.dtype)
            self.draws.append(NoiseDraw(kwargs.get("generator") is not None))
            self.dtypes.append(dtype)
            return self.give(len(self.draws) - 1).to(dtype)
        if func in _OTHER_NOISE:
            raise DoesNotApply(f"it draws noise with {getattr(func, '__name__', func)}")
        return func(*args, **kwargs)


_OTHER_NOISE = (
    torch.rand,
    torch.rand_like,
    torch.normal,
    torch.bernoulli,
    torch.multinomial,
    torch.randint,
)


def dtypes(
    scheduler: SchedulerMixin,
    begin: int,
    arguments: Mapping[str, object],
    output: torch.dtype,
    sample: torch.dtype,
) -> tuple[tuple[torch.dtype, ...], ...]:
    """For each step, the dtype of its result and then of its draws; `output` and `sample` are the
    dtypes that come in."""
    probe, rows = copy.deepcopy(scheduler), []
    last = sample
    for t in _schedule(probe, begin):
        if hasattr(probe, "scale_model_input"):
            probe.scale_model_input(torch.zeros(_SHAPE, dtype=last), t)
        with NoiseBasis(lambda index: torch.zeros(_SHAPE)) as noise:
            result = _call_step(
                probe,
                torch.zeros(_SHAPE, dtype=output),
                t,
                torch.zeros(_SHAPE, dtype=last),
                arguments,
            )
        last = result[0].dtype
        rows.append((last, *noise.dtypes))
    return tuple(rows)


# ---- is it true?


def evaluate(terms: Terms, sources: Mapping[str, Tensor]) -> Tensor:
    """sum of coefficient x source, in fp32 at least; one multiply, then one multiply-add a term."""
    (first, factor), *more = terms or ((SAMPLE, 0.0),)
    start = sources[first]
    start = start if start.dtype in (torch.float32, torch.float64) else start.float()
    if factor == 1.0 and more:
        (second, weight), *more = more
        total = torch.add(start, sources[second], alpha=weight)
    else:
        total = start * factor
    for name, weight in more:
        total.add_(sources[name], alpha=weight)
    return total


def advance(step: TableStep, sources: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Next sample and next memory. A memory that only moves is passed on without a copy."""
    memory = {name: _remember(terms, sources) for name, terms in step.states.items()}
    return evaluate(step.out, sources), memory


def _remember(terms: Terms, sources: Mapping[str, Tensor]) -> Tensor:
    if len(terms) == 1 and terms[0][1] == 1.0:
        source = terms[0][0]
        # Cloned, since the caller may overwrite its tensors later, as a replayed CUDA graph does.
        return sources[source] if source.startswith("state:") else sources[source].clone()
    return evaluate(terms, sources)


def _check_linear(
    table: ScheduleTable, scheduler: SchedulerMixin, begin: int, arguments: dict[str, object]
) -> None:
    for scale in _PROBE_SCALES:
        worst = _probe(table, copy.deepcopy(scheduler), begin, arguments, scale)
        if not worst <= TOLERANCE:
            raise DoesNotApply(
                f"{table.scheduler} is not linear here (a probe differs by {worst:.1e} of its "
                f"range{_suspects(scheduler)}), so it has no table. Choose a scheduler that is "
                "linear, such as EulerDiscreteScheduler."
            )


def _suspects(scheduler: SchedulerMixin) -> str:
    config = getattr(scheduler, "config", {})
    names = [name for name in ("clip_sample", "clip_denoised", "thresholding") if config.get(name)]
    return "".join(f"; {name}=True" for name in names)


def _probe(
    table: ScheduleTable,
    scheduler: SchedulerMixin,
    begin: int,
    arguments: dict[str, object],
    scale: float,
) -> float:
    """The largest difference between scheduler and table on random input, relative to the range."""
    rng = torch.Generator().manual_seed(1)
    shape = (1, 4, 4, 4)
    memory: dict[str, Tensor] = {}
    worst = 0.0
    for step, t in zip(table.steps, _schedule(scheduler, begin), strict=True):
        sample, output, *noise = torch.randn(
            (2 + len(step.draws), *shape), generator=rng, dtype=torch.float64
        )
        sample, output = sample * scale, output * scale
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, t)
        with NoiseBasis(noise.__getitem__):
            expected = _call_step(scheduler, output, t, sample, arguments)[0]
        sources = {
            SAMPLE: sample,
            OUTPUT: output,
            **memory,
            **{f"noise:{i}": n for i, n in enumerate(noise)},
        }
        actual, memory = advance(step, sources)
        largest = max((abs(coefficient) for _, coefficient in step.out), default=0.0)
        size = max(float(expected.abs().max()), scale * largest, 1e-12)
        worst = max(worst, float((actual - expected).abs().max()) / size)
    return worst
