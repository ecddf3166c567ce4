"""Where a pipeline runs: torch's devices, and the machine as a record."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, NamedTuple

import psutil
import torch
from torch import nn

from halftime.base.environment import (
    SPEED_VARIABLES,
    instructions,
    load_average,
    processor_name,
    usable_cores,
    versions,
)
from halftime.base.errors import UnknownDevice
from halftime.base.neighbours import wait_policy_words
from halftime.records import Environment
from halftime.records.doctor import Device
from halftime.upstream import hugging_face

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def device_of(pipeline: DiffusionPipeline) -> torch.device:
    """Where the pipeline computes.

    Under offloading its weights are elsewhere (on the CPU, or on the meta device), and its hooks
    know where they will be brought; a wrapper without such a property is where its weights are.
    """
    device = hugging_face.execution_device(pipeline) or getattr(pipeline, "device", None)
    if device is not None:
        return torch.device(device)
    modules = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    devices = (weight.device for module in modules for weight in module.parameters())
    return next(devices, torch.device("cpu"))


# What halftime measures on, the fastest kind first; each is a module of torch of that name.
_ACCELERATORS = ("cuda", "xpu", "mps")


def available_devices() -> list[str]:
    """The names of the devices that this torch can compute on, the best first, the CPU last."""
    names = [name for kind in _ACCELERATORS for name in _devices_of_kind(kind)]
    return [*names, "cpu"]


def _devices_of_kind(kind: str) -> list[str]:
    if kind == "mps":
        return ["mps"] if torch.backends.mps.is_available() else []
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return []
    return [f"{kind}:{index}" for index in range(module.device_count())]


def default_device() -> torch.device:
    """CUDA, else an Intel GPU (XPU), else Apple's (MPS), else the CPU."""
    return torch.device(available_devices()[0])


def checked_device(name: str) -> torch.device:
    """The torch device of that name. Raises UnknownDevice, naming those that exist."""
    available = sorted(available_devices(), key=lambda device: device != "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownDevice(
            f"device {name!r} is not a torch device. Available: {', '.join(available)}."
        ) from error
    if device.index is None and device.type in ("cuda", "xpu"):
        device = torch.device(device.type, 0)
    elif device.type in ("cpu", "mps"):  # there is one of each
        device = torch.device(device.type) if device.index in (None, 0) else device
    if str(device) not in available:
        raise UnknownDevice(
            f"device {name!r} does not exist here. Available: {', '.join(available)}."
        )
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything; a CPU has."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type in _ACCELERATORS:
        getattr(torch, device.type).synchronize(device)


class Accelerator(NamedTuple):
    """What a GPU says of itself; None where its backend does not tell."""

    name: str
    memory_bytes: int | None


def accelerator(device: torch.device) -> Accelerator | None:
    """The GPU behind a device; None for the CPU."""
    if device.type == "mps":
        return Accelerator(f"GPU of the {processor_name()}", torch.mps.recommended_max_memory())
    if device.type not in _ACCELERATORS:
        return None
    facts = getattr(torch, device.type).get_device_properties(device)
    return Accelerator(facts.name, facts.total_memory)


def this_environment(device: str = "cpu") -> Environment:
    """The environment as it is now. `device` is a torch device that exists."""
    target = torch.device(device)
    gpu = accelerator(target)
    return Environment(
        system=platform.platform(),
        processor=processor_name(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        device=str(target),
        device_name=processor_name() if gpu is None else gpu.name,
        device_memory_bytes=None if gpu is None else gpu.memory_bytes,
        versions=versions() | _device_versions(target),
        settings={name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ}
        | wait_policy_words()
        | _torch_settings(target),
        load_average=load_average(),
    )


def _device_versions(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    cudnn = torch.backends.cudnn.version()
    return {"cuda": str(torch.version.cuda or torch.version.hip), "cudnn": str(cudnn)}


def _torch_settings(device: torch.device) -> dict[str, str]:
    settings = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        settings["cudnn.benchmark"] = str(torch.backends.cudnn.benchmark)
        settings["cudnn.allow_tf32"] = str(torch.backends.cudnn.allow_tf32)
    return settings


# What each generation of NVIDIA's cards multiplies fastest, by its least compute capability. Tensor
# cores know fp16 since Volta and bf16 since Ampere; Pascal doubles fp16 on its first chip alone, on
# the others it is 64 times slower than fp32.
_FASTEST_ON_CUDA: tuple[tuple[tuple[int, int], str], ...] = (
    ((8, 0), "bfloat16"),
    ((7, 0), "float16"),
    ((6, 1), "float32"),
    ((6, 0), "float16"),
    ((0, 0), "float32"),
)
# AMD's by the start of their architecture: without matrix cores, or with such for fp16 alone.
_FASTEST_ON_ROCM = {"gfx900": "float16", "gfx906": "float16", "gfx10": "float16"}


def fastest_dtype(device: torch.device, *, overflows: bool = False) -> str:
    """The name of the dtype in which a device computes fastest, and float32 where that is float16
    and what is computed `overflows` it.

    On the CPU it is bfloat16, which halves what is read also where the processor emulates it.
    """
    fastest = _fastest(device)
    return "float32" if overflows and fastest == "float16" else fastest


def overflows_in_float16(component: object) -> bool:
    """Whether its config says so, as that of SDXL's VAE does."""
    return bool(getattr(getattr(component, "config", None), "force_upcast", False))


def _fastest(device: torch.device) -> str:
    if device.type == "mps":
        return "float16"
    if device.type == "xpu":  # matrix units take both; those without them double fp16
        has_units = getattr(
            torch.xpu.get_device_properties(device),
            "has_subgroup_matrix_multiply_accumulate",
            False,
        )
        return "bfloat16" if has_units else "float16"
    if device.type != "cuda":
        return "bfloat16"
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        return next(
            (d for start, d in _FASTEST_ON_ROCM.items() if name.startswith(start)), "bfloat16"
        )
    capability = torch.cuda.get_device_capability(device)
    return next(dtype for least, dtype in _FASTEST_ON_CUDA if capability >= least)


def torch_build() -> str:
    """What torch was built for: 'CPU only', 'CUDA 12.8' or 'ROCm 6.4'."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"


def devices() -> tuple[Device, ...]:
    """The devices that this torch can compute on, the processor first, the GPUs after it."""
    names = [name for name in available_devices() if name != "cpu"]
    return (_cpu(), *(_gpu(torch.device(name)) for name in names))


def _cpu() -> Device:
    memory = psutil.virtual_memory()
    extensions = instructions()
    return Device(
        name="cpu",
        description=processor_name(),
        capability=" ".join(extensions),
        fast_dtypes=(
            "float32",
            *(["bfloat16"] if {"avx512_bf16", "amx_bf16", "bf16"} & {*extensions} else []),
        ),
        memory_bytes=memory.total,
        free_bytes=memory.available,
    )


def _fast_in_16_bits(device: torch.device) -> tuple[str, ...]:
    fastest = fastest_dtype(device)
    return ("float16", "bfloat16") if fastest == "bfloat16" else (fastest,)


def _gpu(device: torch.device) -> Device:
    if device.type != "cuda":
        gpu = accelerator(device)
        assert gpu is not None
        return Device(
            name=str(device),
            description=gpu.name,
            fast_dtypes=("float32", *_fast_in_16_bits(device)),
            memory_bytes=gpu.memory_bytes,
        )
    facts = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return Device(
        name=str(device),
        description=facts.name,
        capability=f"{facts.major}.{facts.minor}",
        fast_dtypes=tuple(dict.fromkeys(("float32", *_fast_in_16_bits(device)))),
        memory_bytes=total,
        free_bytes=free,
    )
