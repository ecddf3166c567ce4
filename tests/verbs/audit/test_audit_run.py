"""Audits of pipelines: golden counts, every family, and torch left as it was."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)

import halftime
from halftime.base.errors import BadInput, DoesNotApply
from halftime.pytest_plugin import assert_no_syncs_in_loop
from halftime.records import Workload
from halftime.records.audit import Audit
from halftime.verbs.audit.compare import new_sites
from halftime.verbs.audit.mode import ShadowDevice
from tiny_pipelines import FAMILIES, PIPELINES

Tensors = dict[str, torch.Tensor]


def audited(name: str, steps: int = 3, **more: object) -> Audit:
    tiny = {**PIPELINES, **FAMILIES}[name]
    arguments = {**tiny.arguments(steps), **more}
    workload = Workload(steps=steps)
    return halftime.audit(tiny.build(), workload, **arguments)


def line_of(function: Callable[..., object], code: str, count: int) -> tuple[str, int, int]:
    """The file, the one line of `function` that has this code, and how often it shall wait."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + index for index, line in enumerate(lines) if code in line]
    return Path(inspect.getfile(inspect.unwrap(function))).name, number, count


def test_cogvideox_waits_exactly_where_it_was_published_to() -> None:
    found = audited("cogvideox", steps=20, use_dynamic_cfg=True)
    assert (found.in_loop_total, found.in_loop_d2h, found.in_loop_h2d) == (79, 79, 0)
    assert [
        (site.file.rpartition("/")[2], site.line, site.count)
        for site in found.sites
        if site.in_loop
    ] == [
        line_of(CogVideoXDDIMScheduler.step, "self.alphas_cumprod[prev_timestep]", 39),
        line_of(CogVideoXPipeline.__call__, "t.item()", 20),
        line_of(CogVideoXDDIMScheduler.step, "self.alphas_cumprod[timestep]", 20),
    ]
    assert found.steps_seen == 20
    assert not found.capturable
    assert len(found.because) == 3
    schedulers = [site for site in found.sites if site.in_loop and "scheduling" in site.file]
    assert {site.fix for site in schedulers} == {"schedule-table"}
    assert all(site.per_step for site in found.sites if site.in_loop)
    assert "t.item()" in found.sites[1].code


@pytest.mark.parametrize("name", PIPELINES)
def test_the_promised_classes_are_audited_unmodified(name: str) -> None:
    found = audited(name)
    assert found.steps_seen >= 2
    assert found.in_loop_total == found.in_loop_d2h + found.in_loop_h2d
    assert found.capturable == (found.in_loop_total == 0)
    assert any(site.kind == "copy-to-host" for site in found.sites) or "prior" in name


# One of each kind of loop and of waits; `make waits` audits every family.
WIDER = (
    "sd15_pag",
    "marigold_depth",
    "flux_kontext",
    "hidream",
    "dit",
    "deepfloyd_if",
    "stable_unclip",
    "hunyuan_video",
    "skyreels_v2",
)


@pytest.mark.parametrize("name", WIDER)
def test_the_wider_families_are_audited_unmodified(name: str) -> None:
    assert audited(name, steps=2).sites


def submodules() -> set[str]:
    """Of torch: after a failure audit resets dynamo, which imports more of the compiler."""
    return {name.removeprefix("torch.") for name in sys.modules if name.startswith("torch.")}


def torch_state() -> dict[str, int]:
    owners = {
        "cuda": torch.cuda,
        "accelerator": torch.accelerator,
        "torch": torch,
        "Tensor": torch.Tensor,
    }
    return {
        f"{owner}.{name}": id(value)
        for owner, thing in owners.items()
        for name, value in vars(thing).items()
    }


@pytest.mark.parametrize("fails", [False, True])
def test_torch_is_left_as_it_was(fails: bool) -> None:
    tiny = PIPELINES["sdxl"]
    pipeline = tiny.build()
    picture = pipeline(**tiny.arguments())[0]
    before = torch_state()
    arguments = tiny.arguments()
    if fails:
        arguments["guidance_scale"] = "high"
        with pytest.raises(TypeError):
            halftime.audit(pipeline, Workload(steps=2), **arguments)
    else:
        halftime.audit(pipeline, Workload(steps=2), **arguments)
    after = torch_state()
    imported = {name for name in after if name.removeprefix("torch.") in submodules()}
    assert {name: after[name] for name in after if name in before or name not in imported} == before
    assert not torch.cuda.is_available()
    assert all(type(parameter) is torch.nn.Parameter for parameter in pipeline.unet.parameters())
    assert type(pipeline).__name__ == "StableDiffusionXLPipeline"
    assert (pipeline(**tiny.arguments())[0] == picture).all()


PROBE = """
import json, sys, torch, torch._dynamo
import numpy as np

def outcome(action):
    try:
        return str(action())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

def gradient():
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    return weight.grad

def table():
    return {
        "zeros": outcome(lambda: torch.zeros(1, device="cuda")),
        "empty": outcome(lambda: torch.empty(2, device="cuda:0")),
        "tensor": outcome(lambda: torch.tensor([1.0], device="cuda")),
        "cuda()": outcome(lambda: torch.ones(1).cuda()),
        "to": outcome(lambda: torch.ones(1).to("cuda")),
        "module": outcome(lambda: torch.nn.Linear(1, 1).to("cuda")),
        "generator": outcome(lambda: torch.Generator("cuda")),
        "stream": outcome(lambda: torch.cuda.Stream()),
        "synchronize": outcome(lambda: torch.cuda.synchronize()),
        "available": outcome(torch.cuda.is_available),
        "initialized": outcome(torch.cuda.is_initialized),
        "count": outcome(torch.cuda.device_count),
        "accelerator": outcome(torch.accelerator.current_accelerator),
        "modes": outcome(torch.utils._python_dispatch._get_current_dispatch_mode_stack),
        "function modes": outcome(torch.overrides._get_current_function_mode_stack),
        "kernel": outcome(
            lambda: torch._C._dispatch_has_kernel_for_dispatch_key(
                "aten::_local_scalar_dense", "CUDA"
            )
        ),
        "lift": outcome(torch._C._only_lift_cpu_tensors),
        "overwrite": outcome(torch.__future__.get_overwrite_module_params_on_conversion),
        "gradient": outcome(gradient),
        "compiled": outcome(lambda: torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))),
        "fake": outcome(
            lambda: torch._subclasses.FakeTensorMode().__enter__().__exit__(None, None, None)
        ),
        "random": outcome(lambda: torch.manual_seed(0) and torch.randn(2)),
    }

import halftime
from halftime.records import Workload
from tiny_pipelines import PIPELINES
tiny = PIPELINES["sdxl"]
tables, ends = [table()], []
for change in ({}, {"guidance_scale": "high"}):
    pipeline, arguments = tiny.build(), {**tiny.arguments(), **change}
    workload = Workload(steps=2)
    ends.append(outcome(lambda: halftime.audit(pipeline, workload, **arguments).steps_seen))
    tables.append(table())
print(json.dumps([tables, ends]))
"""


@pytest.mark.slow
def test_nothing_that_torch_does_tells_that_there_was_an_audit() -> None:
    """After one that ends and one that fails; in a process of its own, since an earlier audit would
    hide much."""
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "src")])},
    )
    (before, after, after_failure), (ended, failed) = json.loads(done.stdout.splitlines()[-1])
    assert ended == "2"
    assert failed.startswith("TypeError")
    assert after == before
    assert after_failure == before


# Their schedulers or models keep tensors on the device between calls.
@pytest.mark.parametrize(
    "name", ["sd15_img2img", "z_image", "lcm_img2img", "kandinsky22_img2img", "stable_audio"]
)
def test_a_pipeline_draws_the_same_after_an_audit(name: str) -> None:
    tiny = {**PIPELINES, **FAMILIES}[name]
    pipeline = tiny.build()
    before = torch.as_tensor(np.asarray(pipeline(**tiny.arguments(2))[0]))
    first = halftime.audit(pipeline, Workload(steps=2), **tiny.arguments(2))
    assert torch.equal(torch.as_tensor(np.asarray(pipeline(**tiny.arguments(2))[0])), before)
    assert halftime.audit(pipeline, Workload(steps=2), **tiny.arguments(2)).sites == first.sites


def test_what_a_compiled_part_does_is_not_seen_so_the_loop_is_not_called_capturable() -> None:
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    assert halftime.audit(pipeline, Workload(steps=3), **tiny.arguments(3)).capturable
    pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    found = halftime.audit(pipeline, Workload(steps=3), **tiny.arguments(3))
    assert not found.capturable
    assert "transformer is compiled" in found.because[0]


def test_a_second_audit_is_refused_while_one_runs_and_welcome_afterwards() -> None:
    refused: list[str] = []

    def second() -> None:
        try:
            with ShadowDevice():
                refused.append("entered")
        except RuntimeError as error:
            refused.append(str(error))

    with ShadowDevice():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "already running" in refused[0]
    with ShadowDevice():
        assert torch.zeros(1, device="cuda").is_cuda


def test_a_planted_wait_is_new_against_the_baseline() -> None:
    base = audited("flux", steps=4)

    def peek(pipeline: object, step: int, timestep: torch.Tensor, values: Tensors) -> Tensors:
        values["latents"].abs().max().item()
        return values

    planted = audited("flux", steps=4, callback_on_step_end=peek)
    [new] = new_sites(base, planted)
    assert new.count == 4
    assert "abs().max().item()" in new.code
    assert new_sites(base, base) == ()
    assert new_sites(planted, base) == ()


def test_the_pytest_plugins_check() -> None:
    tiny = PIPELINES["cogvideox"]
    with pytest.raises(
        AssertionError,
        match=r"waits in the denoising loop, 0 allowed:\n.*scheduling_ddim_cogvideox",
    ):
        assert_no_syncs_in_loop(tiny.build(), **tiny.arguments(4))
    assert (
        assert_no_syncs_in_loop(tiny.build(), allowed=1000, **tiny.arguments(4)).in_loop_total > 0
    )


@pytest.mark.parametrize("name", ["cogvideox", "sd15", "sd3", "pixart_sigma"])
def test_a_table_instead_of_a_scheduler_takes_its_waits_away(name: str) -> None:
    from halftime.fix import applied
    from halftime.records.recipe import Choice, Plan

    tiny = PIPELINES[name]
    pipeline = tiny.build()
    assert halftime.audit(pipeline, Workload(steps=4), **tiny.arguments(4)).in_loop_total > 0
    with applied(pipeline, Plan(fixes=(Choice(name="schedule-table"),))):
        found = halftime.audit(pipeline, Workload(steps=4), **tiny.arguments(4))
    assert (found.in_loop_total, found.capturable) == (0, True)


class Watchful(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """A user's own: it looks at its result."""

    looks = 0

    def step(self, *args: object, **kwargs: object) -> object:
        result = super().step(*args, **kwargs)
        Watchful.looks += bool(torch.isfinite(result[0]).all())
        return result


def test_a_users_own_step_keeps_its_waits_and_names_no_table() -> None:
    """A table would leave out what else the step does, so it is refused, and not advised."""
    tiny = PIPELINES["flux"]
    pipeline = tiny.build()
    pipeline.scheduler = Watchful.from_config(pipeline.scheduler.config)
    found = halftime.audit(pipeline, Workload(steps=4), **tiny.arguments(4))
    [own] = [
        site
        for site in found.sites
        if site.function == "step" and site.file.endswith("test_audit_run.py")
    ]
    assert (own.count, own.fix) == (4, None)
    with (
        pytest.raises(
            DoesNotApply, match=r"Watchful\.step \(tests/verbs/audit/test_audit_run\.py:\d+\)"
        ),
        halftime.applied(pipeline, ["schedule-table"]),
    ):
        pass


def test_a_table_reaches_the_pipelines_that_a_pipeline_holds() -> None:
    """Kandinsky 2.2 decodes in a pipeline of its own; its prior's scheduler clips, and so has no
    table."""
    tiny = PIPELINES["kandinsky22"]
    pipeline = tiny.build()
    before, decoder = pipeline.scheduler, pipeline.decoder_pipe
    assert decoder.scheduler is before
    with halftime.applied(pipeline, ["schedule-table"]):
        assert decoder.scheduler is pipeline.scheduler is not before
        found = halftime.audit(pipeline, Workload(steps=4), **tiny.arguments(4))
    assert decoder.scheduler is pipeline.scheduler is before
    waits = {site.file.rpartition("/")[2] for site in found.sites if site.in_loop}
    # the noise that it draws on the host
    assert waits == {"scheduling_unclip.py", "torch_utils.py"}


def test_host_work_that_every_step_repeats() -> None:
    def rebuild(
        pipeline: object, step: int, timestep: torch.Tensor, values: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        latents = values["latents"]
        for _ in range(5):
            latents = latents.to(torch.bfloat16).float() + torch.zeros(1, device=latents.device)
        if step == 2:
            latents = latents + torch.nn.functional.pad(latents, (0, 1))[..., :-1]
        return {**values, "latents": latents}

    assert audited("flux", steps=6).findings == audited("flux", steps=6).findings
    found = {
        finding.id: finding
        for finding in audited("flux", steps=6, callback_on_step_end=rebuild).findings
    }
    assert found["tensors-rebuilt"].evidence["per_step"] >= 5
    assert found["dtype-ping-pong"].evidence["per_step"] >= 10
    assert "test_audit_run.py" in found["dtype-ping-pong"].where[0]
    assert "2 kinds" in found["steps-differ"].message


def test_a_walk_through_a_models_modules_in_every_step_is_found() -> None:
    def walk(pipeline: object, step: int, timestep: torch.Tensor, values: Tensors) -> Tensors:
        sum(parameter.numel() for parameter in pipeline.transformer.parameters())  # type: ignore[attr-defined]
        return values

    plain = {finding.id: finding for finding in audited("flux", steps=6).findings}
    found = {
        finding.id: finding
        for finding in audited("flux", steps=6, callback_on_step_end=walk).findings
    }
    before = plain["module-walks"].evidence["per_step"] if "module-walks" in plain else 0
    assert found["module-walks"].evidence["per_step"] == int(before) + 1
    assert any("test_audit_run.py" in place for place in found["module-walks"].where)


def test_a_clean_loop_gives_no_findings() -> None:
    assert audited("sdxl", steps=6).findings == ()


class OwnLoop(StableDiffusionXLPipeline):
    """A pipeline with a loop of its own: no progress bar, and a wait in every step."""

    @torch.no_grad()
    def __call__(self, num_inference_steps: int = 4, **kwargs: object) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        latents = torch.zeros(1, self.unet.config.in_channels, 8, 8, device=self.device)
        for timestep in self.scheduler.timesteps:
            latents = self.scheduler.step(latents * 0.5, timestep, latents).prev_sample
            float(latents.mean())
        float(latents.mean())
        return latents


def test_a_loop_without_a_progress_bar_is_known_by_its_schedulers_steps() -> None:
    pipeline = OwnLoop(**PIPELINES["sdxl"].build().components)
    found = halftime.audit(pipeline, Workload(steps=4))
    assert found.steps_seen == 4
    waits = Counter()
    for site in found.sites:
        waits[site.in_loop] += site.count if "float(latents.mean())" in site.code else 0
    # The last step ends the loop, so what follows it on its last turn counts as outside.
    assert waits == {True: 3, False: 2}
    assert not found.capturable
    assert any("without a progress_bar()" in reason for reason in found.not_seen)
    assert "step" not in vars(pipeline.scheduler)


def test_what_cannot_be_moved_to_the_shadow_device_is_refused_by_name() -> None:
    from diffusers.hooks import apply_group_offloading

    pipeline = PIPELINES["sd15"].build()
    cpu = torch.device("cpu")
    apply_group_offloading(
        pipeline.unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level"
    )
    kind = type("GGUFParameter", (torch.nn.Parameter,), {})
    pipeline.vae.quant_conv._parameters["weight"] = torch.zeros(2).as_subclass(kind)
    words = r"vae is quantised by gguf; unet is under group offload\. Audit it as it was loaded"
    with pytest.raises(BadInput, match=words):
        halftime.audit(pipeline, Workload(steps=2), **PIPELINES["sd15"].arguments(2))


def test_a_failed_audit_leaves_flex_attention_working() -> None:
    """It is compiled under the audit, where dynamo fails, and would fail ever after."""
    from torch.nn.attention.flex_attention import flex_attention

    pipeline = PIPELINES["sd15"].build()
    query = torch.randn(1, 1, 16, 16)
    expected = flex_attention(query, query, query)

    def on_step(*_: object) -> dict[str, object]:
        flex_attention(*[query.to("cuda")] * 3)
        raise RuntimeError("the call fails")

    with pytest.raises(Exception):  # noqa: B017, PT011 - dynamo's own, or the callback's
        halftime.audit(pipeline, callback_on_step_end=on_step, **PIPELINES["sd15"].arguments(2))
    torch.testing.assert_close(flex_attention(query, query, query), expected)
