"""The constants of the roofline: few, each with a meaning.

Fitted by `workshop.forecast.fit`, stored as JSON.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from halftime.records import Record

# What a lognormal prior says before any data: median, and standard deviation of the logarithm. The
# physics: efficiencies against the dense peak of a library kernel on large shapes; host costs in
# seconds; energies in joules for one fp16 FLOP on tensor cores, whole board.
PRIORS: dict[str, tuple[float, float]] = {
    # share of the peak that convolutions reach when tiles fill the GPU and power allows
    "conv": (0.90, 0.15),
    "gemm": (0.92, 0.1),
    "bmm": (0.60, 0.3),
    "attention": (0.70, 0.2),
    # FLOPs a cycle and multiprocessor for which operands can be brought
    "feed_conv": (1000.0, 0.5),
    "feed_gemm": (8000.0, 0.5),
    "feed_attention": (2000.0, 0.5),
    "attention_before_ampere": (0.5, 0.4),  # of that, where there is no flash attention kernel
    # fp32 operations for each attention score (exponential, maximum, scaling)
    "score_operations": (16.0, 0.5),
    "conv_tf32": (0.80, 0.2),
    "simt": (0.75, 0.2),  # share of the fp32 peak without tensor cores
    # convolutions likewise; above 1 since Winograd's transform saves multiplications
    "conv_simt": (1.2, 0.3),
    # share of the TF32 peak that attention in fp32 reaches: three products for one
    "attention_tf32": (0.2, 0.5),
    "attention_fp32": (0.5, 0.4),  # share of the fp32 peak, where there is no TF32
    "pointwise": (0.75, 0.2),  # share of the bandwidth
    "norm": (0.55, 0.3),
    "fused": (0.70, 0.2),  # kernels that the compiler generated
    # of the bytes of an eager fp16 convolution, moved again to change layouts
    "layout": (0.5, 0.7),
    "cached": (1.0, 0.5),  # extra bandwidth, in bandwidths, for working sets well inside the L2
    # clock of consumer cards over the datasheet's (measured products: 1.0 to 1.13)
    "boost": (1.10, 0.05),
    # 128 x 128 tiles a multiprocessor at which a contraction reaches half its rate
    "tiles": (0.5, 0.5),
    "kernel": (2.5e-6, 0.3),  # seconds a kernel takes at least
    "energy": (1.4e-12, 0.3),  # joules a FLOP, fp16 on tensor cores
    "static": (25.0, 0.3),  # watts that memory and board take before any arithmetic
    "energy_simt": (3.0, 0.4),  # times that, fp32 without tensor cores
    "dispatch": (15e-6, 0.4),  # seconds of the host for one operation
    # host costs beside a consumer card, against those of a server's slower cores
    "desktop": (0.8, 0.2),
    # seconds of the host for a step beside the network: scheduler, guidance, progress
    "step": (1.0e-3, 0.5),
    "call": (30e-3, 0.7),  # seconds of a call beside its stages
    "pixel": (20e-9, 0.8),  # seconds for a pixel from the tensor to a picture
    # host costs of server cores of 2022 and later (with Hopper and Blackwell), likewise: twice a
    # Rome core's single-thread rate, and a newer Python
    "modern": (0.55, 0.25),
    # of the 16-bit products' share of the peak, in 8 bits or fewer; and of their energy
    "gemm_low": (0.75, 0.2),
    "energy_low": (0.6, 0.3),
    # bytes moved to quantise an activation, and to turn a quantised weight back; times that, eager
    "quantise": (5.0, 0.4),
    "dequantise": (3.0, 0.4),
    "unfused": (3.0, 0.4),
    "engine": (0.85, 0.2),  # time of an engine (TensorRT) over that of the compiled module
}
# Energy of a FLOP by generation, relative to the A100's 7 nm: what the process alone would suggest;
# of Blackwell, of which there are no rows, what a B200's measured products (data/matmul.csv) need
# within its power.
GENERATIONS = {
    "volta": 2.0,
    "turing": 2.0,
    "ampere-datacentre": 1.0,
    "ampere": 1.3,
    "ada": 0.6,
    "hopper": 0.6,
    "blackwell": 0.4,
}
# The same of generations whose maker nobody has measured: the fit leaves them alone.
UNMEASURED = {
    "cdna": 1.0,
    "cdna2": 1.0,
    "cdna3": 0.6,
    "cdna4": 0.4,
    "rdna3": 0.6,
    "xe-hpc": 0.6,
    "xe2-hpg": 0.6,
}
# Of the logarithms of their rates and bandwidth, a prior: the constants are shares of the peak that
# NVIDIA's libraries reach, and others' may reach another.
UNMEASURED_COMPUTE, UNMEASURED_MEMORY = 0.4, 0.2
GENERATION_SPREAD = 0.3  # standard deviation of the logarithm; the fit reads it


class GpuEffect(Record, frozen=True, kw_only=True):
    """How one GPU departs from the common constants: logarithms, with their covariance."""

    compute: float
    memory: float
    # of (compute, compute), (compute, memory), (memory, memory)
    covariance: tuple[float, float, float]
    rows: int  # measurements behind it


class Constants(Record, frozen=True, kw_only=True):
    """All constants by name, and the spreads of logarithms that the bands come from."""

    schema: Literal[1] = 1
    values: dict[str, float]
    energy: dict[str, float]  # generation -> factor
    gpus: dict[str, GpuEffect]
    gpu_compute: float  # of one GPU from another
    gpu_memory: float
    host: float  # of one host from another
    family: float  # of one model family from another, on the same GPU
    source: float  # of equal configurations measured by others
    fitted_on: str  # what rows

    def __getitem__(self, name: str) -> float:
        return self.values[name]


def prior() -> Constants:
    """The constants before any data."""
    return Constants(
        values={name: median for name, (median, _) in PRIORS.items()},
        energy=dict(GENERATIONS),
        gpus={},
        gpu_compute=0.16,
        gpu_memory=0.10,
        host=0.35,
        family=0.08,
        source=0.10,
        fitted_on="nothing: priors only",
    )


@cache
def shipped() -> Constants:
    """The constants that ship with halftime."""
    path = resources.files("halftime.verbs.forecast").joinpath("data", "constants.json")
    return msgspec.json.decode(path.read_bytes(), type=Constants)
