"""The machine, the software and the settings that change speed; torch's part: `pipeline.device`."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

from halftime.base.version import version

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy")
# Environment variables that are known to change speed; recorded where they are set.
SPEED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHINDUCTOR_FREEZING",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "TORCH_COMPILE_DISABLE",
)


def load_average() -> float:
    """Runnable processes, averaged over the last minute. Windows has no such number; psutil counts
    there from the first call on."""
    return float(psutil.getloadavg()[0])


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    installed = {"python": platform.python_version(), "halftime": version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


# Instruction sets that decide which dtypes a processor computes in, by the names in /proc/cpuinfo.
_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "bf16",
)


def instructions() -> list[str]:
    """The processor's instruction sets of this list; empty where /proc/cpuinfo is missing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return [name for name in _INSTRUCTIONS if name in flags]
