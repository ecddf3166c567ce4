"""The denoised estimate: with a model that is always right, it is the picture itself, at every
step."""

from __future__ import annotations

import diffusers
import pytest
import torch

from halftime.verbs.serve.preview import denoised, noise_level

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_oracle_is_seen_through(name: str, prediction: str) -> None:
    """The noisy sample is the scheduler's own `add_noise`; the oracle answers by the textbook's
    definition."""
    scheduler = getattr(diffusers, name)(prediction_type=prediction)
    scheduler.set_timesteps(8)
    x0, e = (
        torch.randn(1, 4, 4, 4, generator=generator(0)),
        torch.randn(1, 4, 4, 4, generator=generator(1)),
    )
    for index, t in enumerate(scheduler.timesteps):
        sample = scheduler.add_noise(x0, e, t.reshape(1))
        # signal : noise from the sample itself, so that the test does not lean on the code under
        # test
        basis = torch.stack([x0.flatten(), e.flatten()], 1)
        signal, noise = (
            torch.linalg.lstsq(basis, sample.flatten()[:, None]).solution.flatten().tolist()
        )
        norm = (signal**2 + noise**2) ** 0.5
        oracle = {"epsilon": e, "v_prediction": (signal * e - noise * x0) / norm, "sample": x0}[
            prediction
        ]
        estimate = denoised(
            scheduler, oracle, t, sample, index if hasattr(scheduler, "step_index") else None
        )
        assert estimate is not None
        torch.testing.assert_close(estimate, x0, atol=2e-4, rtol=1e-3)


def test_a_flow_is_seen_through() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    x0, e = (
        torch.randn(1, 4, 4, 4, generator=generator(0)),
        torch.randn(1, 4, 4, 4, generator=generator(1)),
    )
    for index, t in enumerate(scheduler.timesteps):
        sample = scheduler.scale_noise(x0, t.reshape(1), e)
        estimate = denoised(scheduler, e - x0, t, sample, index)
        torch.testing.assert_close(estimate, x0, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "name",
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler", "DDPMScheduler"],
)
def test_it_is_what_the_scheduler_itself_says(name: str, prediction: str) -> None:
    """diffusers' `pred_original_sample`, where a scheduler gives one."""
    more = {"clip_sample": False} if name.startswith("DD") else {}
    scheduler = getattr(diffusers, name)(prediction_type=prediction, **more)
    scheduler.set_timesteps(6)
    sample = torch.randn(2, 4, 4, 4, generator=generator(0)) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = torch.randn(2, 4, 4, 4, generator=generator(int(t)))
        result = scheduler.step(output, t, sample)
        index = (
            scheduler.step_index - 1 if getattr(scheduler, "step_index", None) is not None else None
        )
        estimate = denoised(scheduler, output, t, sample, index)
        torch.testing.assert_close(estimate, result.pred_original_sample, atol=1e-3, rtol=1e-3)
        sample = result.prev_sample


def test_a_learned_variance_is_left_out() -> None:
    scheduler = diffusers.DDIMScheduler()
    sample, output = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2)
    with_variance = denoised(scheduler, output, 500, sample, None)
    assert with_variance is not None
    torch.testing.assert_close(with_variance, denoised(scheduler, output[:, :4], 500, sample, None))


def test_what_is_not_known_gives_none() -> None:
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(4)
    assert noise_level(edm, edm.timesteps[0], 0) is None
    assert denoised(edm, torch.ones(1), edm.timesteps[0], torch.ones(1), 0) is None
