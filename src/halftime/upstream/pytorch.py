"""Private names of torch that halftime relies on, each with the reason."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing import reductions
from torch.utils import _pytree
from torch.utils._mode_utils import no_dispatch as no_dispatch

# The base of every mode that sees operations below autograd; torch documents modes, but not where
# they live.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

from halftime.base.errors import UnsupportedVersion

if TYPE_CHECKING:
    from torch._dynamo.utils import CompilationMetrics as CompilationMetrics

T = TypeVar("T", bound=Tensor)

# ---- nested values

# Walks dicts, lists, tuples and model outputs as torch.export and torch.compile do; torch.utils has
# no public name for it, and the optree package is a dependency more.
tree_map: Callable[..., Any] = _pytree.tree_map
tree_leaves: Callable[..., list[Any]] = _pytree.tree_leaves
tree_flatten: Callable[..., tuple[list[Any], Any]] = _pytree.tree_flatten
tree_unflatten: Callable[..., Any] = _pytree.tree_unflatten

# ---- operations, tensors and storages

# The type of an operation that a dispatch mode gets.
Operation = torch._ops.OpOverload


def operation_name(operation: Operation) -> str:
    """'aten::add' for aten.add.Tensor: the schema has it, and no public attribute."""
    return str(operation._schema.name)


def overload_name(operation: Operation) -> str:
    """'Tensor' for aten.add.Tensor, '' for the default one."""
    return str(operation._overloadname)


def wrapper_tensor(cls: type[T], inner: Tensor, device: torch.device) -> T:
    """A tensor of the subclass `cls` with the shape and dtype of `inner`, without storage, that
    says it is on `device`: the only way to a tensor whose device does not exist."""
    wrapper: T = torch.Tensor._make_wrapper_subclass(
        cls,
        inner.size(),
        strides=inner.stride(),
        storage_offset=inner.storage_offset(),
        dtype=inner.dtype,
        layout=inner.layout,
        device=device,
        requires_grad=False,
    )
    return wrapper


# A `__torch_function__` that lets a subclass go to its dispatcher: what torch's own subclasses use.
no_torch_function = torch._C._disabled_torch_function_impl


def plain_tensor_functions() -> AbstractContextManager[None]:
    """Within it subclasses are treated as plain tensors, so that `x.data = y` reaches torch's
    setter."""
    return torch._C.DisableTorchFunctionSubclass()


@contextmanager
def metadata_only() -> Iterator[None]:
    """Within it an in-place view changes a wrapper's own sizes and runs no kernel: torch's fake
    tensors keep their sizes right in this way."""
    with no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            yield
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


@contextmanager
def lifting_cpu_tensors_only() -> Iterator[None]:
    """Within it `torch.tensor(..., device='cuda')` is made on the CPU and copied, so that the copy
    passes the dispatcher, where an audit sees it."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@contextmanager
def kernel_replaced(name: str, kernel: Callable[..., object], key: str) -> Iterator[None]:
    """Within it the aten operation `name` runs `kernel` for the dispatch key `key`.

    A library's registrations end with its `_destroy`, which torch.library has no public name for.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl(name, kernel, key, allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def storage_key(storage: torch.UntypedStorage) -> int:
    """What two tensors of one storage have in common. Storages on the meta device have no
    address, so the C object is asked."""
    return int(storage._cdata)


# Says when a storage is gone, without keeping it; torch has it for sharing tensors between
# processes, and documents no other way.
StorageWeakRef = reductions.StorageWeakRef


def writes_to(tensor: Tensor) -> int | None:
    """A number that grows with each write to the tensor; None for an inference tensor, which counts
    none. Autograd keeps it to know whether a saved tensor was changed."""
    return None if tensor.is_inference() else int(tensor._version)


def cpu_attention() -> object:
    """The operation that `scaled_dot_product_attention` becomes on a CPU, for which torch's FLOP
    counter has no formula."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


# ---- modules


def tensor_tables(module: nn.Module) -> tuple[MutableMapping[str, Tensor | None], ...]:
    """The module's own parameters and buffers as the dicts that hold them: setting an attribute
    copies or checks, and a fix must put the very tensors back."""
    return module._parameters, module._buffers  # type: ignore[return-value]


# Where nn.Module.compile() puts what `module(...)` then runs instead of `forward`.
COMPILED_CALL = "_compiled_call_impl"


def call_entry(module: nn.Module) -> str:
    """The attribute through which `module(...)` runs: a wrapper inside a compiled call would be
    compiled too."""
    return COMPILED_CALL if getattr(module, COMPILED_CALL, None) is not None else "forward"


def is_compiled(component: object) -> bool:
    """Whether a module, or one of its submodules, runs through torch.compile, which wraps a module
    in an OptimizedModule, sets its compiled call, or gives a function in the place of a method."""
    return isinstance(component, nn.Module) and any(
        type(module).__name__ == "OptimizedModule"
        or call_entry(module) == COMPILED_CALL
        or bool(compiled_methods(module))
        for module in component.modules()
    )


def compiled_methods(module: nn.Module) -> tuple[str, ...]:
    """Names of this very module's methods in whose place `torch.compile(module.method)` stands:
    the function that it gives carries the one that it compiles, under a name of dynamo's own."""
    return tuple(
        name
        for name, value in {**vars(uncompiled(module)), **vars(module)}.items()
        if name != COMPILED_CALL
        and hasattr(value, "_torchdynamo_orig_callable")
        and not hasattr(value, "_torchdynamo_disable")  # of torch.compiler.disable
    )


def wrapped_modules() -> frozenset[int]:
    """The `id` of each module of which an object that `torch.compile(module)` gave is alive,
    wherever that is held. Looks at all objects: once, not once a module."""
    if not dynamo_is_loaded():
        return frozenset()
    return frozenset(
        id(uncompiled(thing))
        for thing in gc.get_objects()
        if type(thing).__name__ == "OptimizedModule"
    )


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile(module)` wrapped, or the module itself."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return inner


def own_forward_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's own run before or after this very module's forward: torch has no
    public list of hooks, and transformers puts some on its own models."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    homes = [str(getattr(hook, "__module__", "")) for hook in hooks]
    return any(not home.startswith(("transformers.", "diffusers.")) for home in homes)


# ---- torch.compile


def dynamo_is_loaded() -> bool:
    """Whether anything can have been compiled: importing dynamo takes a second."""
    return "torch._dynamo.utils" in sys.modules


def load_dynamo() -> None:
    """Import dynamo: it tabulates torch's functions then, so before any of them is replaced."""


def dynamo_counters() -> dict[str, Counter[str]]:
    """Dynamo's counters: 'stats' has 'unique_graphs' and 'calls_captured', 'graph_break' a count
    for each reason. Empty before dynamo is loaded."""
    if not dynamo_is_loaded():
        return {"stats": Counter(), "graph_break": Counter()}
    from torch._dynamo.utils import counters

    return counters


def compilations() -> Sequence[CompilationMetrics]:
    """What dynamo knows of each of its last 64 compilations: when, of which code, how long, and
    why again."""
    if not dynamo_is_loaded():
        return ()
    from torch._dynamo.utils import get_compilation_metrics

    return get_compilation_metrics()


@contextmanager
def compilations_watched(begins: Callable[[], None], ends: Callable[[], None]) -> Iterator[None]:
    """Call these around each time that dynamo compiles, or records a CUDA graph, in the block; the
    outermost where such times nest. Nothing is compiled before dynamo is loaded."""
    if not dynamo_is_loaded():
        yield
        return
    from torch._dynamo.callback import callback_handler

    def start(*_: object) -> None:
        begins()

    def end(*_: object) -> None:
        ends()

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)


def is_compiled_whole(component: object) -> bool:
    """Whether the module's own call runs through torch.compile, and nothing inside it does."""
    if not isinstance(component, nn.Module):
        return False
    inner = uncompiled(component)
    at_once = (
        inner is not component
        or call_entry(component) == COMPILED_CALL
        or "forward" in compiled_methods(component)
    )
    return at_once and not any(map(is_compiled, inner.children()))


def allow_recompiles(limit: int) -> None:
    """Let dynamo compile one function up to `limit` times; beyond it, it runs eagerly and says so
    once in a log. It is set in dynamo's configuration alone."""
    if not dynamo_is_loaded():
        return
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, limit)
    config.accumulated_recompile_limit = max(
        config.accumulated_recompile_limit, 8 * config.recompile_limit
    )


@contextmanager
def compilations_forgotten() -> Iterator[None]:
    """After an error in the block dynamo knows nothing of what it compiled or failed to compile.

    It remembers a frame that it could not trace, and then raises for it in the whole process. What
    was compiled before the block is forgotten too, and compiled anew when it is called.
    """
    try:
        yield
    except BaseException:
        if dynamo_is_loaded():
            torch._dynamo.reset()
        raise


def can_compile() -> bool:
    """Whether torch.compile works with this Python; torch says so privately only."""
    supported: bool = torch._dynamo.is_dynamo_supported()  # type: ignore[attr-defined]
    return supported and not torch.compiler.is_compiling()


def mode_options(mode: str) -> dict[str, object]:
    """The options that a mode of torch.compile stands for: `mode` and `options` exclude each other,
    and we need both."""
    return dict(torch._inductor.list_mode_options(mode))


def inductor_folder(folder: Path) -> AbstractContextManager[object]:
    """Within it Inductor keeps its cache below `folder`, also where the process has compiled
    already and its own folder is settled."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    return temporary_cache_dir(str(folder))


@contextmanager
def inductor_config_restored() -> Iterator[None]:
    """Afterwards Inductor is configured as it was: torchao sets what it recommends for the whole
    process."""
    from torch._inductor import config

    before = config.save_config()
    try:
        yield
    finally:
        config.load_config(before)


# The logger that warns of every operator of a package that is not installed, at each export.
ONNX_EXPORTER_LOG = "torch.onnx._internal.exporter._registration"

# ---- the machine and the process


def has_avx512_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; torch.cpu has no public question."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_amx() -> bool:
    """Whether the CPU has tiles for bfloat16 matrix products."""
    return bool(torch.cpu._is_amx_tile_supported())


def is_tracing() -> bool:
    """Whether a torch.profiler is running, which slows what is timed."""
    return bool(torch.autograd.profiler._is_profiler_enabled)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory. It says so in three ways; on a CPU by a RuntimeError with
    the allocator's name in its text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in str(error) or "out of memory" in str(error)
    )


# ---- a CUDA device that is not there

# What torch.cuda calls before its first use of a device: without one it raises.
CUDA_INITIALISATION = "_lazy_init"
CUDA_GUARD = 1  # CUDA's entry in c10's table of device guards: c10::DeviceType::CUDA
# Mangled, Itanium ABI: c10::impl::device_guard_impl_registry, an array of pointers by DeviceType,
# and torch::utils::set_requires_device_init(c10::DeviceType, bool).
_GUARD_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_REQUIRES_INITIALISATION = "_ZN5torch5utils24set_requires_device_initEN3c1010DeviceTypeEb"


def device_guards() -> ctypes.Array[ctypes.c_void_p]:
    """c10's table of device guards as far as CUDA's: c10 refuses tensors of a device without one.
    Raises UnsupportedVersion."""
    try:
        return (ctypes.c_void_p * (CUDA_GUARD + 1)).in_dll(_library("c10"), _GUARD_REGISTRY)
    except (OSError, ValueError) as error:
        raise _no_symbol(error) from error


def forget_cuda_initialisation() -> None:
    """Let torch's C++ code ask Python again whether CUDA can be initialised: it remembers that a
    first cuda tensor did. Raises UnsupportedVersion."""
    try:
        requires = getattr(_library("torch_python"), _REQUIRES_INITIALISATION)
    except (OSError, AttributeError) as error:
        raise _no_symbol(error) from error
    requires.argtypes, requires.restype = [ctypes.c_int8, ctypes.c_bool], None
    requires(CUDA_GUARD, True)


_LIBRARY_NAMES = {"linux": "lib{}.so", "darwin": "lib{}.dylib", "win32": "{}.dll"}


def _library(name: str) -> ctypes.CDLL:
    file = _LIBRARY_NAMES.get(sys.platform, "lib{}.so").format(name)
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / file))


def _no_symbol(error: Exception) -> UnsupportedVersion:
    return UnsupportedVersion(
        f"audit needs a function inside torch's C++ libraries that torch {torch.__version__} for "
        f"{sys.platform} does not have under its name on Linux ({error}). Audit on Linux or macOS; "
        "the other commands do not need it."
    )
