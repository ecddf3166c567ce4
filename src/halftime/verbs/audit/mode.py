"""The shadow device: its tensors say cuda:0, run on the CPU, and record what would wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

import torch
from torch.overrides import TorchFunctionMode

from halftime.pipeline.change import patched
from halftime.upstream import pytorch
from halftime.verbs.audit import ghost, guard, patches
from halftime.verbs.audit.rules import MIXED
from halftime.verbs.audit.sites import Sites
from halftime.verbs.audit.steps import Steps
from halftime.verbs.audit.tensor import CPU, ShadowTensor, unwrapped
from halftime.verbs.audit.waits import waits

_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class ShadowDevice(pytorch.TorchDispatchMode):
    """Within the block there is a CUDA device with index 0; afterwards torch is as it was.

    Entering a second one raises RuntimeError, since torch's global state can be changed once only.
    """

    def __init__(self, without_values: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ghost = without_values  # large tensors have shapes only
        self.sites = Sites()
        self.steps = Steps()
        self.pinned: set[int] = set()
        self._held: list[torch.Tensor] = []  # pinned tensors, so that no id is used twice
        self._undo = ExitStack()

    def __enter__(self) -> ShadowDevice:
        if not patches.ONE_AT_A_TIME.acquire(blocking=False):
            raise RuntimeError(
                "an audit is already running in this process; wait for it, or use another process."
            )
        with ExitStack() as undo:
            undo.callback(patches.ONE_AT_A_TIME.release)
            undo.enter_context(guard.installed())
            patches.apply(self.sites, undo)
            undo.enter_context(_Functions(self))
            undo.enter_context(patched(ShadowTensor, "device_mode", self))
            super().__enter__()  # type: ignore[no-untyped-call]
            self._undo = undo.pop_all()
        return self

    def hold(self, tensor: torch.Tensor) -> None:
        """A pinned copy lives as long as the audit, so that no other tensor gets its id."""
        self.pinned.add(id(tensor))
        self._held.append(tensor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._undo:
            super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: pytorch.Operation,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        return self.run(func, args, kwargs or {})

    def run(
        self, func: pytorch.Operation, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """Run one operation on the CPU tensors inside, having recorded whether it would wait."""
        flat, spec = pytorch.tree_flatten((args, dict(kwargs)))
        shadows = [value for value in flat if isinstance(value, ShadowTensor)]
        device = kwargs.get("device")
        to = torch.device(device) if isinstance(device, str | torch.device | int) else None
        if not shadows and (to is None or to.type != "cuda"):
            return func(*args, **kwargs)
        name, overload = pytorch.operation_name(func), pytorch.overload_name(func)
        for wait in waits(name, overload, args, kwargs, to, self.pinned):
            self.sites.record(wait.kind, name)
        if self.sites.recording and self.sites.step is not None:
            self.steps.observe(self.sites.step, name, flat, dict(kwargs))
        _check_one_device(name, flat, shadows)
        inner_args, inner_kwargs = pytorch.tree_unflatten(
            [unwrapped(value) for value in flat], spec
        )
        if to is not None and to.type == "cuda":
            inner_kwargs["device"] = CPU
        if inner_kwargs.get("pin_memory"):
            inner_kwargs["pin_memory"] = False
        if self._ghost:
            out = ghost.compute(
                func, name, inner_args, inner_kwargs, to is not None and to.type == "cpu"
            )
        else:
            out = func(*inner_args, **inner_kwargs)
        if torch.Tag.inplace_view in func.tags and shadows:
            # An in-place view must change the wrapper's own sizes too: on its metadata alone.
            with pytorch.metadata_only():
                func(*args, **kwargs)
        on_device = to.type == "cuda" if to is not None else True
        return _wrapped(out, flat, shadows, on_device)


def _check_one_device(name: str, flat: Sequence[object], shadows: Sequence[ShadowTensor]) -> None:
    """What a real device would refuse must not look fine here."""
    if name in MIXED or not shadows:
        return
    if any(
        isinstance(value, torch.Tensor) and not isinstance(value, ShadowTensor) and value.dim()
        for value in flat
    ):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({name})"
        )


def _wrapped(
    out: object, flat: Sequence[object], shadows: Sequence[ShadowTensor], on_device: bool
) -> object:
    """Results as shadow tensors; what was changed in place stays the very tensor that went in."""
    outer = {id(shadow.on_host): shadow for shadow in shadows}
    host = {
        id(value)
        for value in flat
        if isinstance(value, torch.Tensor) and not isinstance(value, ShadowTensor)
    }

    def wrap(value: object) -> object:
        if not isinstance(value, torch.Tensor) or id(value) in host:
            return value
        if id(value) in outer:
            return outer[id(value)]
        return ShadowTensor(value.resolve_conj()) if on_device else value

    return pytorch.tree_map(wrap, out)


class _Functions(TorchFunctionMode):
    """What the dispatcher does not see: pinning, `x.data = y`, streams, foreign generators."""

    def __init__(self, device: ShadowDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.Tensor.record_stream:
            return None
        if func is torch.Tensor.pin_memory:
            return self._pin(args[0])
        if func is torch.Tensor.is_pinned:
            return id(args[0]) in self._device.pinned
        if func == _SET_DATA and any(isinstance(value, ShadowTensor) for value in args):
            _set_data(func, args[0], args[1])
            return None
        _check_generator(kwargs)
        return func(*args, **kwargs)

    def _pin(self, tensor: object) -> torch.Tensor:
        if isinstance(tensor, ShadowTensor):
            raise RuntimeError(
                f"cannot pin 'torch.cuda.{tensor.type()}' only dense CPU tensors can be pinned"
            )
        assert isinstance(tensor, torch.Tensor)
        copy = tensor.clone()
        self._device.hold(copy)
        return copy


def _check_generator(kwargs: Mapping[str, object]) -> None:
    generator, device = kwargs.get("generator"), kwargs.get("device")
    if generator is None or not isinstance(device, str | torch.device):
        return
    needs, has = torch.device(device).type, getattr(generator, "device", CPU).type
    if {has, needs} == {"cpu", "cuda"}:  # in torch's words
        raise RuntimeError(f"Expected a '{needs}' device type for generator but found '{has}'")


def _set_data(func: Callable[..., object], target: object, source: object) -> None:
    """`x.data = y` copies y's implementation into x, and would lose the tensor inside."""
    assert isinstance(target, torch.Tensor)
    if not isinstance(source, ShadowTensor):
        raise RuntimeError(
            "a CPU tensor is assigned to .data of one on the shadow device; offloading is not "
            "audited"
        )
    with pytorch.plain_tensor_functions():
        func(target, source)  # keeps the target's identity, and so what ties and hooks hang on it
    if not isinstance(target, ShadowTensor):
        target.__class__ = ShadowTensor
    vars(target)["on_host"] = source.on_host
