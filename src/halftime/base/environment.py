"""Where are we: the machine, the software and the settings that change speed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from halftime.base.version import version
from halftime.records import Environment
from halftime.records.doctor import Device

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")
# Environment variables that are known to change speed; recorded where they are set.
SPEED_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "MKL_NUM_THREADS", "LD_PRELOAD", "MALLOC_CONF", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_FREEZING", "ONEDNN_DEFAULT_FPMATH_MODE", "TORCH_COMPILE_DISABLE",
)  # fmt: skip


def load_average() -> float:
    """Runnable processes, averaged over the last minute."""
    return os.getloadavg()[0]


def processor_name() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {"python": platform.python_version(), "halftime": version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def collect(device: str = "cpu") -> Environment:
    """The environment as it is now. `device` is a torch device that exists."""
    import torch

    place = torch.device(device)
    return Environment(
        system=platform.platform(),
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        device=str(place),
        device_name=_device_name(place),
        device_memory_bytes=_device_memory(place),
        versions=versions() | _device_versions(place),
        settings={name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ} | _torch_settings(place),
        load_average=load_average(),
    )


def _device_name(place: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(place) if place.type == "cuda" else processor_name()


def _device_memory(place: torch.device) -> int | None:
    import torch

    return torch.cuda.get_device_properties(place).total_memory if place.type == "cuda" else None


def _device_versions(place: torch.device) -> dict[str, str]:
    import torch

    if place.type != "cuda":
        return {}
    cudnn = torch.backends.cudnn.version()
    return {"cuda": str(torch.version.cuda or torch.version.hip), "cudnn": str(cudnn)}


def _torch_settings(place: torch.device) -> dict[str, str]:
    import torch

    settings = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    if place.type == "cuda":
        settings["cudnn.benchmark"] = str(torch.backends.cudnn.benchmark)
        settings["cudnn.allow_tf32"] = str(torch.backends.cudnn.allow_tf32)
    return settings


def torch_build() -> str:
    """What torch was built for: 'CPU only', 'CUDA 12.8' or 'ROCm 6.4'."""
    import torch

    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"


def devices() -> tuple[Device, ...]:
    """The devices that this torch can compute on, the processor first, the GPUs after it."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return (_cpu(), *(_gpu(index) for index in gpus))


# Instruction sets that decide which dtypes a processor computes in, by the names in /proc/cpuinfo.
_INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
    "asimd", "asimdhp", "bf16",
)  # fmt: skip


def _cpu() -> Device:
    memory = psutil.virtual_memory()
    found = instructions()
    return Device(
        name="cpu",
        description=processor_name(),
        capability=" ".join(found),
        fast_dtypes=("float32", *(["bfloat16"] if {"avx512_bf16", "amx_bf16", "bf16"} & {*found} else [])),
        memory_bytes=memory.total,
        free_bytes=memory.available,
    )


def instructions() -> list[str]:
    """The processor's instruction sets that matter here; empty where /proc/cpuinfo is missing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return [name for name in _INSTRUCTIONS if name in flags]


def _gpu(index: int) -> Device:
    import torch

    facts = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return Device(
        name=f"cuda:{index}",
        description=facts.name,
        capability=f"{facts.major}.{facts.minor}",
        fast_dtypes=("float32", "float16", *(["bfloat16"] if facts.major >= 8 else [])),
        memory_bytes=total,
        free_bytes=free,
    )
