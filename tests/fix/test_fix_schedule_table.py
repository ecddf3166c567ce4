"""The scheduler as a table: equal to the original within fp32 rounding, in every configuration."""

import inspect

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from halftime.base.errors import DoesNotApply
from halftime.fix.schedule_table import build
from halftime.fix.table_scheduler import tabled

DETERMINISTIC = (
    "EulerDiscreteScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
    "IPNDMScheduler",
    "LMSDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "CogVideoXDDIMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DPMSolverMultistepInverseScheduler",
    "FlowMapEulerDiscreteScheduler",
)
NOISY = (
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DDPMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "SASolverScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "DDPMParallelScheduler",
)
# What a configuration may hold, where the class knows the word.
CHOICES: dict[str, tuple[object, ...]] = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "use_karras_sigmas": (False, True),
    "use_exponential_sigmas": (False, True),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2"),
    "lower_order_final": (True, False),
    "euler_at_final": (False, True),
    "steps_offset": (0, 1),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "skip_prk_steps": (False, True),
    "shift": (1.0, 3.0),
}
SHAPE = (1, 4, 6, 6)


def make(name: str, **config: object):  # type: ignore[no-untyped-def]
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    if "clip_sample" in known:
        config = {"clip_sample": False, **config}
    return kind(**{key: value for key, value in config.items() if key in known})


def loop(  # type: ignore[no-untyped-def]
    scheduler,
    steps: int,
    begin: int = 0,
    dtype: torch.dtype = torch.float32,
    ulps: float = 0,
    **extra: object,
) -> torch.Tensor:
    """A denoising loop as diffusers writes it, with a stand-in for the model; `ulps` disturbs each
    step by rounding."""
    rounding = torch.Generator().manual_seed(9)
    scheduler.set_timesteps(steps)
    rng = torch.Generator().manual_seed(3)
    takes = inspect.signature(scheduler.step).parameters
    if "generator" in takes:
        extra["generator"] = torch.Generator().manual_seed(5)
    sigma = getattr(scheduler, "init_noise_sigma", 1.0)
    x = (torch.randn(SHAPE, generator=rng) * float(sigma)).to(dtype)
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    for t in scheduler.timesteps[begin:]:
        x = x * (1 + ulps * 1.2e-7 * torch.randn(SHAPE, generator=rounding)) if ulps else x
        model_input = (
            scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        )
        output = (
            torch.tanh(model_input.roll(1, -1)) * 0.9
            + torch.randn(SHAPE, generator=rng).to(dtype) * 0.1
        )
        x = scheduler.step(output, t, x, **extra, return_dict=False)[0]
    return x


def difference(original: torch.Tensor, got: torch.Tensor) -> float:
    """The largest difference, relative to the range."""
    return float((got - original).abs().max() / original.abs().max().clamp(min=1e-6))


def agree(original: torch.Tensor, got: torch.Tensor, tolerance: float = 5e-5) -> None:
    assert got.dtype == original.dtype
    assert got.shape == original.shape
    assert difference(original, got) < tolerance


@pytest.mark.parametrize("name", DETERMINISTIC + NOISY)
def test_every_linear_scheduler_in_its_own_configuration(name: str) -> None:
    agree(loop(make(name), 12), loop(tabled(make(name)), 12))


RESUMABLE = (
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_start_inside_the_schedule_as_img2img_has_it(name: str) -> None:
    begin = 6  # even: Heun's timesteps come in pairs
    agree(loop(make(name), 12, begin), loop(tabled(make(name)), 12, begin))


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_random_configurations(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(DETERMINISTIC + NOISY))
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    config = {
        key: data.draw(st.sampled_from(v), label=key) for key, v in CHOICES.items() if key in known
    }
    steps = data.draw(st.integers(2, 25), label="steps")
    extra = {"eta": data.draw(st.sampled_from([0.0, 0.5, 1.0]))} if name == "DDIMScheduler" else {}
    try:
        expected = loop(make(name, **config), steps, **extra)
    except Exception:  # diffusers itself refuses the configuration
        assume(False)
    assume(bool(expected.isfinite().all()) and float(expected.abs().max()) < 1e6)
    # Some configurations magnify rounding, or cancel in the original's own fp32; those are held to
    # its own error.
    own = difference(expected, loop(make(name, **config), steps, ulps=1, **extra))
    if name in DETERMINISTIC and not extra.get("eta"):
        exact = loop(make(name, **config), steps, dtype=torch.float64, **extra).float()
        own = max(own, difference(expected, exact))
    agree(expected, loop(tabled(make(name, **config)), steps, **extra), max(2e-4, 10 * own))


@pytest.mark.parametrize(
    "name",
    ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"],
)
def test_half_precision_gives_the_same_dtype_and_the_same_noise(name: str) -> None:
    agree(
        loop(make(name), 8, dtype=torch.bfloat16),
        loop(tabled(make(name)), 8, dtype=torch.bfloat16),
        4e-2,
    )


@pytest.mark.parametrize(
    ("name", "config", "word"),
    [
        ("DDIMScheduler", {"clip_sample": True}, "clip_sample"),
        ("DDPMScheduler", {"clip_sample": True}, "clip_sample"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "DDPMScheduler"),
        ("DiscreteDDIMScheduler", {}, "multinomial"),
    ],
)
def test_a_scheduler_that_is_not_linear_is_refused_by_name(
    name: str, config: dict[str, object], word: str
) -> None:
    scheduler = make(name, **config)
    scheduler.set_timesteps(10)
    with pytest.raises(DoesNotApply, match=name) as refusal:
        build(scheduler)
    assert word in str(refusal.value)


def test_it_is_still_the_class_that_pipelines_ask_for() -> None:
    original = make("EulerDiscreteScheduler")
    table = tabled(original)
    assert isinstance(table, diffusers.EulerDiscreteScheduler)
    assert type(table).__name__ == "EulerDiscreteScheduler"
    assert table.config == original.config
    for method in ("step", "set_timesteps"):
        assert inspect.signature(getattr(table, method)) == inspect.signature(
            getattr(original, method)
        )


def test_the_denoised_estimate_and_the_output_class() -> None:
    results = []
    for scheduler in (make("EulerDiscreteScheduler"), tabled(make("EulerDiscreteScheduler"))):
        scheduler.set_timesteps(5)
        t, x, m = scheduler.timesteps[0], torch.ones(SHAPE), torch.full(SHAPE, 0.3)
        scheduler.scale_model_input(x, t)
        results.append(scheduler.step(m, t, x))
    assert type(results[0]) is type(results[1])
    torch.testing.assert_close(results[0].prev_sample, results[1].prev_sample)
    torch.testing.assert_close(results[0].pred_original_sample, results[1].pred_original_sample)


def test_a_second_call_runs_from_memory_and_agrees() -> None:
    table = tabled(make("DPMSolverMultistepScheduler"))
    assert torch.equal(loop(table, 7), loop(table, 7))
    agree(loop(make("DPMSolverMultistepScheduler"), 9), loop(table, 9))


def test_steps_out_of_order_are_refused_where_the_scheduler_remembers() -> None:
    table = tabled(make("DPMSolverMultistepScheduler"))
    table.set_timesteps(5)
    x = torch.zeros(SHAPE)
    table.step(x, table.timesteps[0], x)
    with pytest.raises(DoesNotApply, match="in order"):
        table.step(x, table.timesteps[3], x)


def test_a_step_that_is_made_twice_is_the_schedulers_own() -> None:
    """As Cosmos does it: the denoised estimate first, then a step with it from the same index."""

    def run(scheduler) -> torch.Tensor:  # type: ignore[no-untyped-def]
        scheduler.set_timesteps(4)
        x = torch.ones(SHAPE) * 3
        for t in scheduler.timesteps:
            output = torch.tanh(scheduler.scale_model_input(x, t))
            estimate = scheduler.step(output, t, x, return_dict=False)[1]
            scheduler._step_index -= 1
            x = scheduler.step(
                estimate, t, x, return_dict=False, pred_original_sample=estimate * 1.5
            )[0]
        return x

    table = tabled(make("EDMEulerScheduler"))
    agree(run(make("EDMEulerScheduler")), run(table))
    agree(run(make("EDMEulerScheduler")), run(table))


def test_a_schedule_that_is_changed_before_the_loop_is_the_tables() -> None:
    """As Cosmos 2 does it: another last sigma, written into the scheduler's own tensor."""

    def run(scheduler, change) -> torch.Tensor:  # type: ignore[no-untyped-def]
        scheduler.set_timesteps(4)
        change(scheduler)
        x = torch.ones(SHAPE) * 3
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x), t, x, return_dict=False)[0]
        return x

    def written(scheduler) -> None:  # type: ignore[no-untyped-def]
        scheduler.sigmas[-1] = scheduler.sigmas[-2]

    def exchanged(scheduler) -> None:  # type: ignore[no-untyped-def]
        scheduler.sigmas = scheduler.sigmas * 0.5

    plain, table = (make("FlowMatchEulerDiscreteScheduler") for _ in range(2))
    table = tabled(table)
    for change in (written, exchanged, lambda _: None, written):
        agree(run(plain, change), run(table, change))
    with torch.inference_mode():  # where torch counts no writes
        for change in (written, lambda _: None):
            agree(run(plain, change), run(table, change))


def test_the_original_is_left_alone() -> None:
    original = make("UniPCMultistepScheduler")
    expected = loop(make("UniPCMultistepScheduler"), 6)
    loop(tabled(original), 6)
    assert torch.equal(loop(original, 6), expected)


def test_a_model_output_that_is_overwritten_later_does_no_harm() -> None:
    """A replayed CUDA graph writes every output into the same memory (diffusers 7420)."""

    def run(scheduler, reuse: bool) -> torch.Tensor:  # type: ignore[no-untyped-def]
        scheduler.set_timesteps(8)
        x, static = torch.ones(SHAPE), torch.empty(SHAPE)
        for k, t in enumerate(scheduler.timesteps):
            output = torch.full(SHAPE, 0.1 * k)
            x = scheduler.step(static.copy_(output) if reuse else output, t, x, return_dict=False)[
                0
            ]
        return x

    for name in ("IPNDMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"):
        assert torch.equal(run(tabled(make(name)), False), run(tabled(make(name)), True))


def test_inpainting_may_replace_the_sample_between_steps() -> None:
    def run(scheduler) -> torch.Tensor:  # type: ignore[no-untyped-def]
        scheduler.set_timesteps(8)
        x = torch.ones(SHAPE)
        for t in scheduler.timesteps:
            x = scheduler.step(x * 0.3, t, x, return_dict=False)[0]
            x = torch.where(torch.arange(6) < 3, x, torch.zeros(()))
        return x

    for name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"):
        agree(run(make(name)), run(tabled(make(name))))


class Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what would make the host wait on a device: values read back, and copies between
    devices or dtypes."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "_to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += any(f"aten.{name}" in str(func) for name in self.NAMES)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", [*RESUMABLE[:-1], "EulerAncestralDiscreteScheduler", "LCMScheduler"]
)
def test_no_value_is_read_back_once_the_table_is_made(name: str) -> None:
    def reads(scheduler) -> int:  # type: ignore[no-untyped-def]
        with Reads() as mode:
            scheduler.set_timesteps(6)
            x = torch.ones(SHAPE)
            for t in scheduler.timesteps:
                if hasattr(scheduler, "scale_model_input"):
                    x = scheduler.scale_model_input(x, t)
                x = scheduler.step(x * 0.5, t, x, return_dict=False)[0]
        return mode.count

    table = tabled(make(name))
    reads(table)
    assert reads(table) == 0
    assert reads(make(name)) > 0
