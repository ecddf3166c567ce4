"""Where a pipeline runs: torch's devices, and the machine as a record."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import psutil
import torch
from torch import nn

from halftime.base.environment import (
    SPEED_VARIABLES,
    instructions,
    load_average,
    processor_name,
    versions,
)
from halftime.base.errors import UnknownDevice
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


def checked_device(name: str) -> torch.device:
    """The torch device of that name. Raises UnknownDevice, naming those that exist."""
    available = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownDevice(
            f"device {name!r} is not a torch device. Available: {', '.join(available)}."
        ) from error
    if device.type == "cuda" and device.index is None and len(available) > 1:
        device = torch.device("cuda", 0)
    if str(device) not in available:
        raise UnknownDevice(
            f"device {name!r} does not exist here. Available: {', '.join(available)}."
        )
    return device


def this_environment(device: str = "cpu") -> Environment:
    """The environment as it is now. `device` is a torch device that exists."""
    target = torch.device(device)
    gpu = torch.cuda.get_device_properties(target) if target.type == "cuda" else None
    return Environment(
        system=platform.platform(),
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        device=str(target),
        device_name=processor_name() if gpu is None else gpu.name,
        device_memory_bytes=None if gpu is None else gpu.total_memory,
        versions=versions() | _device_versions(target),
        settings={name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ}
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


def torch_build() -> str:
    """What torch was built for: 'CPU only', 'CUDA 12.8' or 'ROCm 6.4'."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"


def devices() -> tuple[Device, ...]:
    """The devices that this torch can compute on, the processor first, the GPUs after it."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return (_cpu(), *(_gpu(index) for index in gpus))


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


def _gpu(index: int) -> Device:
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
