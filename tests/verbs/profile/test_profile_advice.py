"""A fix that would be refused on this very pipeline is no advice, and what a user did about a fault
is seen however it was written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

from halftime.fix.apply import applied, reasons
from halftime.records import Workload
from halftime.verbs.profile.advice import NAMED, refused_fixes
from halftime.verbs.profile.call import observed_call
from halftime.verbs.profile.clock import HostClock
from halftime.verbs.profile.evidence import Obstacle, ProfileEvidence
from halftime.verbs.profile.facts import ModuleFacts, facts
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.recorder import Recorder
from halftime.verbs.profile.thumbnails import drawing_of
from planted_findings import (
    CALM,
    PICTURE,
    PLANTED,
    TRANSFORMER,
    UNET,
    VAE,
    changed,
    denoise,
    ids,
    row,
    with_ledger,
)
from tiny_pipelines import PIPELINES

HEAVY = with_ledger(denoise(7.5, glue=0.4, scheduler=0.6), row("encode_prompt", 1.5))


# ---- fixes that would be refused


@pytest.mark.parametrize("name", ["sd15", "flux", "hunyuandit", "cogvideox", "kandinsky22_decoder"])
def test_no_finding_names_a_fix_that_the_pipeline_refuses(name: str) -> None:
    pipeline = PIPELINES[name].build()
    evidence = replace(HEAVY, facts=facts(pipeline, {}), refused=refused_fixes(pipeline))
    named = {finding.fix for finding in findings(evidence)} - {None}
    refusals = reasons(pipeline)
    assert named
    assert {fix: refusals[fix] for fix in named if refusals[fix]} == {}  # type: ignore[index]


def test_every_fix_that_a_rule_names_is_looked_at() -> None:
    named = {finding.fix for example in PLANTED.values() for finding in findings(example.evidence)}
    assert named - {None} <= {*NAMED} | {"denoiser-quantize"}


def test_what_stands_against_a_fix_is_said_in_its_place() -> None:
    refused = {"loop-graph": Obstacle("it knows two loops only")}
    glue = with_ledger(denoise(7.5, glue=0.7), refused=refused)
    [finding] = findings(glue)
    assert finding.fix is None
    assert finding.message.endswith("loop-graph does not apply here: it knows two loops only")
    bar = with_ledger(denoise(7.5, progress_bar=0.3, glue=0.4), refused=refused)
    assert [finding.fix for finding in findings(bar)] == ["progress-bar-off"]
    gaps = replace(PLANTED["launch-bound"].evidence, refused=refused)
    assert [finding.fix for finding in findings(gaps)] == ["denoiser-compile"]


def test_a_heavy_component_names_the_next_fix_that_applies() -> None:
    evidence = changed(UNET, dtype="float32", channels_last=False)
    assert [finding.fix for finding in findings(evidence)] == ["denoiser-dtype"]
    refused = {"denoiser-dtype": Obstacle("its weights are quantised")}
    [finding] = findings(replace(evidence, refused=refused))
    assert (finding.id, finding.fix) == ("denoiser-contiguous", "denoiser-channels-last")
    assert "fp32" not in finding.message


def test_a_lever_that_cannot_be_pulled_is_not_named_and_another_setting_is() -> None:
    [module] = [module for module in TRANSFORMER.facts.modules if module.transformer]
    modules = tuple(
        replace(other, cached=False) if other is module else other
        for other in TRANSFORMER.facts.modules
    )
    evidence = replace(TRANSFORMER, facts=replace(TRANSFORMER.facts, modules=modules))
    assert ids(evidence) == ["transformer-cache"]
    hopeless = {"step-cache": Obstacle("it has no blocks")}
    assert ids(replace(evidence, refused=hopeless)) == []
    another = {"step-cache": Obstacle("no first block", {"kind": "mag"})}
    [finding] = findings(replace(evidence, refused=another))
    assert finding.fix is None
    assert "step-cache applies here with kind = 'mag' (without: no first block)" in finding.message


def test_under_a_plan_its_own_fixes_are_no_obstacle() -> None:
    pipeline = PIPELINES["flux"].build()
    assert "loop-graph" in refused_fixes(pipeline)
    with applied(pipeline, ["progress-bar-off"]):
        assert refused_fixes(pipeline) == {}


# ---- compiled in another way


def test_the_line_that_a_finding_gives_ends_the_finding() -> None:
    pipeline = PIPELINES["sd15"].build()

    def vae() -> ModuleFacts:
        return next(module for module in facts(pipeline, {}).modules if module.name == "vae")

    assert not vae().compiled
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, backend="eager")
    assert (vae().compiled, vae().compiled_whole) == (True, False)
    pipeline.vae.compile(backend="eager")  # as well, for nothing
    assert vae().compiled_methods == ("decode",)
    assert ids(changed(VAE, compiled_whole=True)) == ["compile-without-effect"]
    assert ids(changed(VAE, compiled_whole=True, compiled_methods=("decode",))) == []


def test_a_forward_that_was_compiled_is_not_called_eager() -> None:
    pipeline = PIPELINES["flux"].build()
    pipeline.transformer.forward = torch.compile(pipeline.transformer.forward, backend="eager")
    pipeline.vae.forward = torch.compile(pipeline.vae.forward, backend="eager")
    modules = {module.name: module for module in facts(pipeline, {}).modules}
    assert modules["transformer"].compiled
    assert modules["vae"].compiled_whole  # and the pipeline calls decode


# ---- a callback of diffusers' classes


class Counting(PipelineCallback):
    tensor_inputs = ("latents",)
    calls = 0

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):  # type: ignore[no-untyped-def]
        self.calls += 1
        return callback_kwargs


@pytest.mark.parametrize("several", [False, True])
def test_a_callback_object_is_timed_as_a_function_is(several: bool) -> None:
    callback = Counting()
    handed_in = MultiPipelineCallbacks([callback]) if several else callback
    kind, call = type(handed_in), type(handed_in).__call__
    recorder = Recorder(HostClock())
    workload = Workload(steps=2, width=32, height=32)
    pipeline = PIPELINES["sd15"].build()
    observed_call(pipeline, workload, recorder, {"callback_on_step_end": handed_in})
    assert callback.calls == sum(span.name == "callback" for span in recorder.spans) == 2
    assert type(handed_in).__call__ is call
    assert type(handed_in) is kind
    assert "_halftime_timed" not in vars(handed_in)


# ---- pictures and films


def test_slices_of_films_are_films() -> None:
    drawing = drawing_of(WanPipelineOutput(frames=np.zeros((1, 9, 8, 8, 3), np.float32)))
    assert drawing is not None
    assert (drawing.count, drawing.films) == (9, 1)
    sliced: ProfileEvidence = changed(VAE, slicing=True)
    assert ids(replace(sliced, drawing=replace(PICTURE, count=9, films=1))) == []
    [finding] = findings(replace(sliced, drawing=replace(PICTURE, count=18, films=2)))
    assert "decodes 2 films one by one" in finding.message


def test_a_vae_goes_through_old_attention_too() -> None:
    pipeline = PIPELINES["sd15"].build()
    pipeline.vae.set_attn_processor(AttnProcessor())
    modules = {module.name: module for module in facts(pipeline, {}).modules}
    assert modules["vae"].old_attention == "AttnProcessor"
    [finding] = findings(changed(VAE, old_attention="AttnProcessor"))
    assert (finding.id, finding.stage, finding.seconds) == ("old-attention", "vae_decode", 2.0)
    assert "pipeline.vae.set_attn_processor" in finding.message


def test_two_denoisers_run() -> None:
    [finding] = findings(
        replace(
            CALM,
            facts=replace(
                CALM.facts,
                modules=(
                    replace(UNET, compiled=False),
                    replace(UNET, name="controlnet", compiled=False),
                ),
            ),
        )
    )
    assert finding.message.startswith("the unet and controlnet run eagerly")
