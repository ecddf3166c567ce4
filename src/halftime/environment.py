"""Where are we: the machine, the software and the settings that change speed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from halftime import __version__
from halftime.records import Environment

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
    found = {"python": platform.python_version(), "halftime": __version__}
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
