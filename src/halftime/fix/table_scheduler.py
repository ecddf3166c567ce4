"""A drop-in scheduler that steps by a table: the original's interface without its arithmetic.

What diffusers' loops ask of a scheduler (`set_timesteps`, `scale_model_input`, `step`, `timesteps`,
`config`, `order`, `add_noise`, `isinstance`) is as before; `set_timesteps` and `step` keep their
signatures, which pipelines inspect. The step's number is counted on the host, so no value is ever
read back from the device.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from halftime.base.errors import DoesNotApply
from halftime.fix.schedule_table import (
    OUTPUT,
    SAMPLE,
    NoiseDraw,
    ScheduleTable,
    TableStep,
    advance,
    build,
    dtypes,
    evaluate,
)
from halftime.upstream import hugging_face, pytorch

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

_KEPT_SCHEDULES = 8  # schedules whose tables are kept, the newest ones
_STATE = "_halftime"
_Dtypes = tuple[tuple[torch.dtype, ...], ...]  # for each step, of its result and then of its draws


class _Content(NamedTuple):
    """What a tensor holds: the number of writes to it, or its values where none are counted."""

    writes: int | None
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Content:
        return cls(pytorch.writes_to(tensor), tensor.clone())

    def is_of(self, tensor: Tensor) -> bool:
        writes = pytorch.writes_to(tensor)
        return writes == self.writes if writes is not None else torch.equal(tensor, self.values)


@dataclasses.dataclass
class _Schedule:
    """One `set_timesteps`: the attributes that it set, a copy on the host, and its tables."""

    attributes: dict[str, object]
    host: SchedulerMixin
    contents: dict[str, _Content]  # of the tensors among the attributes, as they were set
    tables: dict[tuple[int, str], ScheduleTable] = dataclasses.field(default_factory=dict)
    dtypes: dict[tuple[object, ...], _Dtypes] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, scheduler: SchedulerMixin, host: SchedulerMixin) -> _Schedule:
        """The schedule that is set on a scheduler."""
        attributes = _attributes(scheduler)
        tensors = {name: value for name, value in attributes.items() if isinstance(value, Tensor)}
        return cls(attributes, host, {name: _Content.of(value) for name, value in tensors.items()})

    def is_set_on(self, scheduler: SchedulerMixin) -> bool:
        """Whether the scheduler's schedule is this one still: Cosmos writes another last sigma into
        it between `set_timesteps` and the loop."""
        return self.is_unwritten() and all(
            vars(scheduler).get(name) is self.attributes[name] for name in self.contents
        )

    def is_unwritten(self) -> bool:
        """Whether its tensors hold what `set_timesteps` put there."""
        return all(
            content.is_of(cast(Tensor, self.attributes[name]))
            for name, content in self.contents.items()
        )

    def table(self, begin: int, arguments: dict[str, object]) -> ScheduleTable:
        key = (begin, repr(sorted(arguments.items())))
        if key not in self.tables:
            self.tables[key] = build(self.host, begin, arguments)
        return self.tables[key]

    def dtypes_of(
        self, begin: int, arguments: dict[str, object], output: Tensor, sample: Tensor
    ) -> _Dtypes:
        key = (begin, repr(sorted(arguments.items())), output.dtype, sample.dtype)
        if key not in self.dtypes:
            self.dtypes[key] = dtypes(self.host, begin, arguments, output.dtype, sample.dtype)
        return self.dtypes[key]


@dataclasses.dataclass
class _Position:
    """Where the run is: counted here, never read from the device."""

    table: ScheduleTable
    begin: int
    index: int = 0
    memory: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    dtypes: _Dtypes | None = None

    @property
    def step(self) -> TableStep:
        return self.table.steps[self.index]


@dataclasses.dataclass
class TableState:
    """What a scheduler that steps by a table keeps beside the original's attributes."""

    schedules: dict[object, _Schedule] = dataclasses.field(default_factory=dict)
    schedule: _Schedule | None = None
    position: _Position | None = None
    arguments: dict[str, object] = dataclasses.field(default_factory=dict)
    output_class: type | None = None


def tabled(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A scheduler of the same class that steps by a table; it shares no state with the original.

    Tables are built at the first step of a schedule and kept; a scheduler that is not linear raises
    DoesNotApply there.
    """
    twin = object.__new__(_tabled_class(cast(Hashable, type(scheduler))))
    vars(twin).update(vars(scheduler))
    vars(twin)[_STATE] = TableState()
    return twin


def twin_of(scheduler: SchedulerMixin) -> SchedulerMixin:
    """Another run of a scheduler that steps by a table: the same tables, a position of its own."""
    twin = cast("SchedulerMixin", object.__new__(type(scheduler)))
    vars(twin).update(_copied(vars(scheduler)))
    vars(twin)[_STATE] = TableState(schedules=_state(scheduler).schedules)
    return twin


def is_tabled(scheduler: object) -> bool:
    """Whether the scheduler steps by a table."""
    return _STATE in vars(scheduler)


@cache
def _tabled_class(original: Hashable) -> type[SchedulerMixin]:
    assert isinstance(original, type)
    # It bears the original's name, so that a pipeline saved with it can be loaded by anyone.
    methods: dict[str, object] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
    }
    for name, function in (
        ("set_timesteps", _set_timesteps),
        ("step", _step),
        ("scale_model_input", _scale),
    ):
        if hasattr(original, name):
            methods[name] = _method(function, original, getattr(original, name))
    return type(original.__name__, (original,), methods)


def _method(
    function: Callable[..., object], original: type, wrapped: Callable[..., object]
) -> Callable[..., object]:
    @functools.wraps(wrapped)
    def method(self: SchedulerMixin, *args: object, **kwargs: object) -> object:
        return function(self, original, *args, **kwargs)

    return method


def _state(self: SchedulerMixin) -> TableState:
    state = vars(self)[_STATE]
    assert isinstance(state, TableState)
    return state


# ---- set_timesteps: once a schedule, then from memory, so that a second call copies nothing to the
# device


def _set_timesteps(
    self: SchedulerMixin, original: type[SchedulerMixin], *args: object, **kwargs: object
) -> None:
    state = _state(self)
    key = _key(self, args, kwargs)
    state.position = None
    if key not in state.schedules or not state.schedules[key].is_unwritten():
        host = _host_copy(self, original)
        original.set_timesteps(self, *args, **kwargs)
        original.set_timesteps(host, **_on_host(original, args, kwargs))
        while len(state.schedules) >= _KEPT_SCHEDULES:
            state.schedules.pop(next(iter(state.schedules)))
        state.schedules[key] = _Schedule.of(self, host)
    state.schedule = state.schedules[key]
    vars(self).update(_copied(state.schedule.attributes))


def _key(self: SchedulerMixin, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    values = [*args, *(item for pair in sorted(kwargs.items()) for item in pair)]
    if any(isinstance(value, Tensor) for value in values):
        return object()  # its values are not looked at, so it equals no other
    # The schedule keeps the config alive among its attributes, so its id is not used again.
    return repr(values), hugging_face.shift_of(self), id(self.config)


def _attributes(self: SchedulerMixin) -> dict[str, object]:
    return _copied({name: value for name, value in vars(self).items() if _is_its_own(name)})


def _is_its_own(name: str) -> bool:
    """Whether an attribute is the scheduler's state. A function that hides a method is a patch: a
    profiler's, or another fix's."""
    return name != _STATE and name not in ("step", "set_timesteps", "scale_model_input")


def _copied(attributes: dict[str, object]) -> dict[str, object]:
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in attributes.items()
    }


def _host_copy(self: SchedulerMixin, original: type[SchedulerMixin]) -> SchedulerMixin:
    host = object.__new__(original)
    for name, value in vars(self).items():
        if _is_its_own(name):
            vars(host)[name] = value.cpu() if isinstance(value, Tensor) else copy.deepcopy(value)
    return host


def _on_host(
    original: type, args: tuple[object, ...], kwargs: dict[str, object]
) -> dict[str, object]:
    signature = inspect.signature(original.set_timesteps)  # type: ignore[attr-defined]
    bound = signature.bind(None, *args, **kwargs).arguments
    extra = bound.pop("kwargs", {})
    named: dict[str, object] = dict(list(bound.items())[1:]) | extra
    return named | ({"device": "cpu"} if "device" in signature.parameters else {})


# ---- a run


def _start(self: SchedulerMixin, timestep: object) -> _Position:
    state = _state(self)
    if state.schedule is None or not state.schedule.is_set_on(self):
        # Set on the original, before the table, or changed since: take the schedule as it is.
        state.schedule = _Schedule.of(self, _host_copy(self, type(self).__mro__[1]))
    begin = _begin(self, timestep)
    position = _Position(state.schedule.table(begin, state.arguments), begin)
    state.position = position
    _show_index(self, position)
    return position


def _begin(self: SchedulerMixin, timestep: object) -> int:
    begin = getattr(self, "begin_index", None)
    return begin if isinstance(begin, int) else _index_of(self, timestep)


def _index_of(self: SchedulerMixin, timestep: object) -> int:
    """The index of a timestep: by address where it is a view of the schedule, else by value."""
    index = index_in_schedule(self.timesteps, timestep)
    if index is not None:
        return index
    value = (
        float(timestep.flatten()[0])
        if isinstance(timestep, Tensor)
        else float(cast("float", timestep))
    )
    assert _state(self).schedule is not None
    values = [float(t) for t in _state(self).schedule.host.timesteps]  # type: ignore[union-attr]
    if value not in values:
        raise DoesNotApply(f"timestep {value} is not in the schedule of {type(self).__name__}.")
    return values.index(value)


def index_in_schedule(timesteps: Tensor, timestep: object) -> int | None:
    """The index at which the view `timestep` points into `timesteps`; None where it is not a view
    of it. Reads no value."""
    if (
        not isinstance(timestep, Tensor)
        or timestep.device != timesteps.device
        or timesteps.stride() != (1,)
    ):
        return None
    try:
        same = timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # tensors without storage, as under torch.compile
        return None
    index = int(timestep.storage_offset()) - int(timesteps.storage_offset())
    return index if same and 0 <= index < len(timesteps) else None


def _show_index(self: SchedulerMixin, position: _Position) -> None:
    """Keep `step_index` true: inpainting pipelines read it."""
    hugging_face.show_step_index(self, position.begin + position.index)


def _scale(
    self: SchedulerMixin,
    original: type,
    sample: Tensor,
    timestep: object = None,
    *args: object,
    **kwargs: object,
) -> Tensor:
    position = _state(self).position or _start(self, timestep)
    vars(self)["is_scale_input_called"] = True
    return sample if position.step.scale == 1.0 else sample * position.step.scale


def _step(
    self: SchedulerMixin,
    original: type,
    model_output: Tensor,
    timestep: object,
    sample: Tensor,
    *args: object,
    return_dict: bool = True,
    generator: torch.Generator | list[torch.Generator] | None = None,
    **kwargs: object,
) -> object:
    if args:
        names = list(inspect.signature(original.step).parameters)[4:]  # type: ignore[attr-defined]
        return self.step(
            model_output,
            timestep,
            sample,
            return_dict=return_dict,
            generator=generator,
            **dict(zip(names, args, strict=False)),
            **kwargs,
        )
    position = _state(self).position or _start(self, timestep)
    complaint = _why_not_by_table(self, position, timestep, kwargs)
    if complaint:
        keywords = {"generator": generator} if generator is not None else {}
        call = (model_output, timestep, sample)
        with _own_step(self, position, complaint):
            own = original.step  # type: ignore[attr-defined]
            return cast(object, own(self, *call, return_dict=return_dict, **keywords, **kwargs))
    if kwargs != _state(self).arguments:
        _state(self).arguments = dict(kwargs)
        position = _start(self, timestep)
    step = position.step
    rows = position.dtypes = position.dtypes or _rows(self, position, model_output, sample)
    out_dtype, *draw_dtypes = rows[position.index]
    sources = {SAMPLE: sample, OUTPUT: model_output, **position.memory}
    for index, (draw, dtype) in enumerate(zip(step.draws, draw_dtypes, strict=True)):
        sources[f"noise:{index}"] = _noise(draw.from_generator, dtype, model_output, generator)
    result, position.memory = advance(step, sources)
    previous = result.to(out_dtype)
    denoised = None if step.denoised is None else evaluate(step.denoised, sources).to(out_dtype)
    _move_on(self, position)
    return _answer(self, step, previous, denoised, return_dict)


def _why_not_by_table(
    self: SchedulerMixin, position: _Position, timestep: object, arguments: dict[str, object]
) -> str:
    """What of this call of `step` is not in the table; '' where nothing is."""
    name = type(self).__name__
    if any(isinstance(value, Tensor) for value in arguments.values()):
        return f"{name}.step was given a tensor among {sorted(arguments)}"
    if arguments != _state(self).arguments and position.index:
        return f"{name}.step was called with other arguments in the middle of a run"
    index, expected = index_in_schedule(self.timesteps, timestep), position.begin + position.index
    if index not in (None, expected):
        return f"{name}.step was called for step {index}; {expected} was expected"
    return ""


@contextmanager
def _own_step(self: SchedulerMixin, position: _Position, complaint: str) -> Iterator[None]:
    """One step of the scheduler's own, from the index that it shows: Cosmos steps twice at each,
    the second time with a tensor. Raises DoesNotApply, with the complaint, where the scheduler
    remembers earlier steps: those that the table took left it no memory."""
    if position.table.remembers or not isinstance(getattr(self, "step_index", None), int):
        raise DoesNotApply(
            f"{complaint}. A table runs in order; call set_timesteps before each run, or leave out "
            "'schedule-table'."
        )
    yield
    position.index = self.step_index - position.begin
    if position.index >= len(position.table.steps):
        _state(self).position = None


def _rows(self: SchedulerMixin, position: _Position, output: Tensor, sample: Tensor) -> _Dtypes:
    state = _state(self)
    assert state.schedule is not None
    return state.schedule.dtypes_of(position.begin, state.arguments, output, sample)


def _noise(
    from_generator: bool,
    dtype: torch.dtype,
    output: Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Tensor:
    """The same draw from the same stream as the scheduler's own."""
    if not from_generator:
        return torch.randn_like(output, dtype=dtype)
    return cast(
        Tensor, randn_tensor(output.shape, generator=generator, device=output.device, dtype=dtype)
    )


def _move_on(self: SchedulerMixin, position: _Position) -> None:
    position.index += 1
    _show_index(self, position)
    if position.index == len(position.table.steps):
        _state(self).position = None


def _answer(
    self: SchedulerMixin,
    step: TableStep,
    previous: Tensor,
    denoised: Tensor | None,
    return_dict: bool,
) -> object:
    values = (previous, denoised, *[None] * step.results)[: step.results]
    if not return_dict:
        return values
    kind = _output_class(self)
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**dict(zip(names, values, strict=False)))


def _output_class(self: SchedulerMixin) -> type:
    """What the original's step returns with return_dict=True."""
    state = _state(self)
    if state.output_class is None:
        assert state.schedule is not None
        host = copy.deepcopy(state.schedule.host)
        zero = torch.zeros(1, 1, 1, 1)
        t = host.timesteps[0]
        if hasattr(host, "scale_model_input"):
            host.scale_model_input(zero, t)
        state.output_class = type(host.step(zero, t, zero))
    return state.output_class


# ---- for a loop that steps by itself


def take_table(
    scheduler: SchedulerMixin, arguments: dict[str, object], sample: Tensor
) -> tuple[ScheduleTable, tuple[tuple[torch.dtype, ...], ...]]:
    """The table of the current schedule, and each step's dtypes, for latents and model outputs like
    `sample`."""
    state = _state(scheduler)
    state.arguments = dict(arguments)
    position = _start(scheduler, scheduler.timesteps[0])
    state.position = None
    return position.table, _rows(scheduler, position, sample, sample)


def draw_noise(
    draw: NoiseDraw,
    dtype: torch.dtype,
    like: Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Tensor:
    """One draw, from the stream that the scheduler itself would use."""
    return _noise(draw.from_generator, dtype, like, generator)
