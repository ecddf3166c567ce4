"""What the forecast knows by name: GPUs, pipelines and networks."""

from __future__ import annotations

from halftime.records.forecast import GpuLine, GpuList, ModelList, NetworkLine, PipelineLine
from halftime.records.gpus import all_gpus
from halftime.verbs.forecast.architectures import ARCHITECTURES
from halftime.verbs.forecast.constants import shipped
from halftime.verbs.forecast.presets import PRESETS


def gpu_list() -> GpuList:
    """The GPUs of the table, with how many measured rows the constants of each were fitted on."""
    fitted = shipped().gpus
    return GpuList(
        gpus=tuple(
            GpuLine(
                name=gpu.name,
                architecture=gpu.architecture,
                memory_bytes=gpu.memory_bytes,
                peak=gpu.peak,
                bandwidth=gpu.bandwidth,
                watts=gpu.watts,
                measurements=fitted[gpu.name].rows if gpu.name in fitted else 0,
                source=gpu.source,
            )
            for gpu in all_gpus()
        )
    )


def model_list() -> ModelList:
    """The built-in pipelines with their defaults, and the networks that they are made of."""
    return ModelList(
        pipelines=tuple(
            PipelineLine(
                name=name,
                denoiser=p.denoiser,
                width=p.size[0],
                height=p.size[1],
                steps=p.steps,
                dtype=p.dtype,
            )
            for name, p in PRESETS.items()
        ),
        networks=tuple(
            NetworkLine(
                name=name, role=a.role, class_name=a.class_name, parameters=a.published_parameters
            )
            for name, a in ARCHITECTURES.items()
        ),
    )
