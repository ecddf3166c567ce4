"""Guidance for nothing, compiled modules that nobody calls, a transformer's levers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from halftime.records import Workload
from halftime.verbs.profile.facts import ModuleFacts, facts
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.guidance import FirstStep, GuidanceFacts, guidance_facts
from planted_findings import DIT, ON_CARD, UNET, ids, of
from tiny_pipelines import PIPELINES

# ---- guidance


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (None, []),
        (GuidanceFacts(2, "guidance_scale", 1.0), ["guidance-for-nothing"]),
        (GuidanceFacts(2, "guidance_scale", 5.0, alike=True), ["guidance-for-nothing"]),
        (GuidanceFacts(2, "true_cfg_scale", 1.0), ["guidance-for-nothing"]),
        (GuidanceFacts(2, "guidance_scale", 5.0), []),
        (GuidanceFacts(1, "guidance_scale", 1.0), []),
        (GuidanceFacts(3, "guidance_scale", 1.0), []),  # another way to guide
        (GuidanceFacts(2), []),
    ],
)
def test_guidance_for_nothing(guidance: GuidanceFacts | None, expected: list[str]) -> None:
    evidence = replace(ON_CARD, guidance=guidance)
    assert ids(evidence) == expected
    if expected:
        assert findings(evidence)[0].seconds == 3.7


def test_halves_of_a_batch_and_two_calls_are_compared_alike() -> None:
    one, other = torch.zeros(1, 4), torch.ones(1, 4)
    for outputs, alike in (
        ([torch.cat([one, one])], True),
        ([torch.cat([one, other])], False),
        ([one, one.clone()], True),
        ([one, other], False),
        ([one], False),
    ):
        step = FirstStep()
        for output in outputs:
            step.saw(output)
        assert (step.alike, step.rows) == (alike, sum(map(len, outputs)))


def test_the_scale_is_the_calls_own_or_the_pipelines() -> None:
    step = FirstStep(rows=2, calls=1)
    flux, sd15 = PIPELINES["flux"].build(), PIPELINES["sd15"].build()
    assert guidance_facts(flux, Workload(), None, step) == GuidanceFacts(2, "true_cfg_scale", 1.0)
    guided = guidance_facts(sd15, Workload(guidance=1.0), None, step)
    assert guided == GuidanceFacts(2, "guidance_scale", 1.0)
    assert guidance_facts(sd15, Workload(), None, FirstStep()) is None


# ---- compiled, and not called


def test_a_compiled_module_that_nobody_calls() -> None:
    [finding] = findings(of(UNET, compiled_elsewhere=True))
    assert (finding.id, finding.fix) == ("compiled-not-called", "denoiser-compile")
    assert "pipeline.unet.compile()" in finding.message


def test_it_is_seen_on_a_pipeline() -> None:
    pipeline = PIPELINES["sd15"].build()
    compiled = torch.compile(pipeline.unet, backend="eager")
    elsewhere = {m.name for m in facts(pipeline, {}).modules if m.compiled_elsewhere}
    assert elsewhere == {"unet"}
    pipeline.unet = compiled
    assert not any(module.compiled_elsewhere for module in facts(pipeline, {}).modules)


# ---- a transformer's levers


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"cached": False}, ["transformer-cache"]),
        ({"attention_backend": ""}, ["transformer-attention"]),
        ({"attention_backend": "native"}, ["transformer-attention"]),
        ({"quantised": ""}, ["transformer-quantise"]),
        ({"quantised": "", "parameters": 10**8}, []),
        ({"transformer": False, "cached": False, "quantised": ""}, []),
    ],
)
def test_levers(more: dict[str, object], expected: list[str]) -> None:
    assert ids(of(DIT, **more)) == expected


def test_a_cache_is_not_named_where_the_pipeline_would_not_tell_it_its_evaluations() -> None:
    evidence = of(DIT, cached=False)
    assert ids(replace(evidence, facts=replace(evidence.facts, cachable=False))) == []


def test_few_steps_leave_a_cache_nothing() -> None:
    assert ids(replace(of(DIT, cached=False), steps=4)) == []


def test_levers_are_not_named_where_the_denoiser_is_little_of_the_call() -> None:
    little = replace(of(DIT, cached=False), wall_seconds=100.0, first_call_seconds=100.0)
    assert ids(little) == []


def test_a_transformer_is_known_and_what_is_on_it() -> None:
    pipeline = PIPELINES["flux"].build()

    def denoiser() -> ModuleFacts:
        return next(m for m in facts(pipeline, {}).modules if m.name == "transformer")

    assert facts(pipeline, {}).cachable
    assert denoiser().transformer
    assert (denoiser().cached, denoiser().quantised, denoiser().attention_backend) == (
        False,
        "",
        "",
    )
    from diffusers import FirstBlockCacheConfig

    pipeline.transformer.enable_cache(FirstBlockCacheConfig())
    pipeline.transformer.set_attention_backend("native")
    assert (denoiser().cached, denoiser().attention_backend) == (True, "native")
    unet = next(m for m in facts(PIPELINES["sd15"].build(), {}).modules if m.part == "denoiser")
    assert not unet.transformer
