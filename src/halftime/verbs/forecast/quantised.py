"""Weights and products in fewer bits than sixteen: what each kind reads, multiplies, converts."""

from __future__ import annotations

from typing import NamedTuple

from halftime.base.errors import BadInput
from halftime.records.gpus import Gpu, Rate


class Quantised(NamedTuple):
    """One kind of quantisation of a denoiser's linear layers.

    `multiplies` is the format of the products, None where weights are turned back into 16 bits
    first. `doubt` is the spread of log(seconds) that rests on few or no measurements.
    """

    weight_bytes: float
    multiplies: Rate | None
    doubt: float
    note: str
    one_kernel: bool = False  # turned back by a kernel of its own, eager too (bitsandbytes)


# `fp8` and `int8` quantise each activation as it comes (dynamic); `-weights` keep 16-bit products.
# Bytes include scales: one for each row, for 64 weights (nf4) or for 16 (fp4).
QUANTISED: dict[str, Quantised] = {
    "int8": Quantised(1.0, "int8", 0.15, "products in int8, activations quantised as they come"),
    "fp8": Quantised(1.0, "fp8", 0.15, "products in fp8, activations quantised as they come"),
    "fp4": Quantised(0.5625, "fp4", 0.35, "nvfp4: a prior alone, no measurement of it was at hand"),
    "int8-weights": Quantised(1.0, None, 0.12, "weights in int8, products in 16 bits"),
    "fp8-weights": Quantised(1.0, None, 0.12, "weights in fp8, products in 16 bits"),
    "nf4": Quantised(0.5625, None, 0.20, "weights in 4 bits, products in 16 bits", True),
}


def is_quantised(dtype: str) -> bool:
    """Whether the dtype is one of the table's."""
    return dtype in QUANTISED


def sixteen(dtype: str) -> str:
    """The dtype of what is not quantised beside it."""
    return "bf16" if dtype in QUANTISED else dtype


def activations_are(dtype: str) -> bool:
    """Whether activations are quantised as well."""
    return dtype in QUANTISED and QUANTISED[dtype].multiplies is not None


def converts_at_once(dtype: str) -> bool:
    """Whether one kernel turns the weights back, even where nothing is compiled."""
    return dtype in QUANTISED and QUANTISED[dtype].one_kernel


def doubt(dtype: str) -> float:
    """The spread of log(seconds) on top of the machine's."""
    return QUANTISED[dtype].doubt if dtype in QUANTISED else 0.0


def weight_bytes(dtype: str) -> float:
    """Bytes of one weight."""
    if dtype in QUANTISED:
        return QUANTISED[dtype].weight_bytes
    return 4.0 if dtype in ("fp32", "tf32") else 2.0


def check_runs(gpu: Gpu, dtype: str, *, compiled: bool) -> None:
    """Raises BadInput where the GPU multiplies in no such format, or only slower than in 16 bits.

    torchao's int8 products in eager mode took 20 times as long as 16-bit ones (FLUX.1 on an H100,
    130 s against 6.6): a forecast of that would be one of a fallback.
    """
    kind = QUANTISED.get(dtype)
    if kind is None or kind.multiplies is None:
        return
    if not runs_on(gpu, dtype):
        able = [name for name in QUANTISED if runs_on(gpu, name)]
        raise BadInput(f"the {gpu.name} multiplies nothing in {dtype}. It can: {', '.join(able)}.")
    if dtype == "int8" and not compiled:
        raise BadInput(
            "int8 products that are not compiled fall back to a kernel of another kind (20 times "
            "slower than bf16 where it was measured), which the forecast does not model. Add "
            "--compile, or take int8-weights."
        )


def runs_on(gpu: Gpu, dtype: str) -> bool:
    """Whether the GPU's tensor cores have the format that the kind multiplies in."""
    multiplies = QUANTISED[dtype].multiplies
    if multiplies == "int8" and gpu.architecture == "volta":
        return False  # its int8 is dp4a, which torch's integer products do not use
    return multiplies is None or multiplies in gpu.peak
