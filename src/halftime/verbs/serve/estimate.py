"""The denoised estimate (x0) in the middle of a run, from what the scheduler was given.

Four parameterisations cover diffusers' schedulers; `sample` is what `step` takes, before any
scaling of the input:

| family | sample | schedulers |
|---|---|---|
| flow | (1 - sigma) x0 + sigma e, the model gives e - x0 | FlowMatch... |
| exploding | x0 + sigma e | Euler, Heun, LMS, KDPM2 |
| preserving by sigma | alpha x0 + sigma' e, alpha = 1 / sqrt(1 + sigma^2), sigma' = sigma alpha |
DPM++, UniPC, DEIS |
| preserving by timestep | sqrt(a) x0 + sqrt(1 - a) e, a = alphas_cumprod[t] | DDIM, DDPM, PNDM,
LCM, TCD |

Source: Karras et al. 2022 (EDM), table 1; Salimans and Ho 2022 for v; Lipman et al. 2023 for flows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from halftime.upstream import hugging_face

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin


class Noise(NamedTuple):
    """sample = signal * x0 + noise * e."""

    signal: float
    noise: float


def denoised(
    scheduler: SchedulerMixin,
    model_output: torch.Tensor,
    timestep: object,
    sample: torch.Tensor,
    index: int | None,
) -> torch.Tensor | None:
    """x0 as the model sees it, in the shape of `sample`; None for a scheduler or a prediction that
    is not known.

    `index` is the scheduler's step index before the step, None for those that count by timestep.
    """
    kind = getattr(scheduler.config, "prediction_type", None) or (
        "flow_prediction" if _is_flow(scheduler) else None
    )
    level = noise_level(scheduler, timestep, index)
    if level is None or kind not in _FORMULAS:
        return None
    if _is_flow(scheduler):
        kind = "flow_prediction"
    # a learned variance comes in the second half of the channels
    output = model_output[:, : sample.shape[1]]
    estimate: torch.Tensor = _FORMULAS[kind](level, output.float(), sample.float())
    same_dtype: torch.Tensor = estimate.to(sample.dtype)
    return same_dtype


def _from_epsilon(level: Noise, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return (sample - level.noise * output) / level.signal


def _from_v(level: Noise, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    # v = (signal e - noise x0) / norm with signal and noise as in the preserving family, whatever
    # the sample's scale.
    norm = math.hypot(level.signal, level.noise)
    return (level.signal * sample / norm - level.noise * output) / norm


def _from_flow(level: Noise, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return sample - level.noise * output


def _from_sample(level: Noise, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return output


_FORMULAS: dict[str, Callable[[Noise, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "epsilon": _from_epsilon,
    "v_prediction": _from_v,
    "flow_prediction": _from_flow,
    "sample": _from_sample,
}


def noise_level(scheduler: SchedulerMixin, timestep: object, index: int | None) -> Noise | None:
    """How much of the sample is signal and how much is noise, before this step; None where that is
    not known.

    EDM's own schedulers are left out: their model output is preconditioned by the pipeline's
    sigma_data.
    """
    if type(scheduler).__name__.startswith("EDM"):
        return None
    if index is not None and hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[min(index, len(scheduler.sigmas) - 1)])
        if _is_flow(scheduler):
            return Noise(1.0 - sigma, sigma)
        if hugging_face.scales_by_variance(scheduler):
            signal = (1.0 + sigma**2) ** -0.5
            return Noise(signal, sigma * signal)
        return Noise(1.0, sigma)
    if hasattr(scheduler, "alphas_cumprod") and timestep is not None:
        kept = float(scheduler.alphas_cumprod[int(float(timestep))])  # type: ignore[arg-type]
        return Noise(kept**0.5, (1.0 - kept) ** 0.5)
    return None


def _is_flow(scheduler: SchedulerMixin) -> bool:
    return type(scheduler).__name__.startswith("Flow") or bool(
        getattr(scheduler.config, "use_flow_sigmas", False)
    )
