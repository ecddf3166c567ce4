"""Each situation has a planted case in which its rule speaks, and a healthy one in which it is
silent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import halftime
from halftime.records import CompileReport, Environment, Finding, LedgerRow, Session, Workload
from halftime.records.fixes import FIX_ROWS
from halftime.records.priors import with_predictions
from halftime.report.session import report_of
from halftime.verbs.profile.drawn import CallPictures
from halftime.verbs.profile.evidence import ProfileEvidence
from halftime.verbs.profile.facts import facts
from halftime.verbs.profile.findings import findings
from tiny_pipelines import PIPELINES

WALL = 2.0
PARTS = (("denoiser", 1.0), ("scheduler", 0.01), ("progress_bar", 0.01), ("glue", 0.01))


def rows(vae: float = 0.8, decodes: int = 1, **further: float) -> tuple[LedgerRow, ...]:
    denoise = tuple(LedgerRow(stage=part, seconds=s, share=s / WALL) for part, s in PARTS)
    return (
        LedgerRow(stage="denoise", seconds=1.03, share=0.5, parts=denoise),
        LedgerRow(stage="vae_decode", seconds=vae, share=vae / WALL, calls=decodes),
        *(LedgerRow(stage=stage, seconds=s, share=s / WALL) for stage, s in further.items()),
    )


def evidence(pipeline: object, ledger: tuple[LedgerRow, ...] = rows(), **more: object):  # type: ignore[no-untyped-def]
    known = ProfileEvidence(
        WALL,
        WALL,
        ledger,
        facts(pipeline, {}),
        None,
        0.0,
        2,
        CallPictures(count=1, longer_side=512),
    )
    return replace(known, **more)


def said(*arguments: object, **more: object) -> dict[str, Finding]:
    return {finding.id: finding for finding in findings(evidence(*arguments, **more))}  # type: ignore[arg-type]


@pytest.fixture
def pipeline():  # type: ignore[no-untyped-def]
    return PIPELINES["sd15"].build()


NAMES = {
    *("compiled-in-vain", "broken-picture", "decoded-too-often", "vae-in-pieces"),
    *("lora-unfused", "offloading", "safety-checker", "compiling"),
}


def test_a_healthy_pipeline_hears_of_none(pipeline) -> None:  # type: ignore[no-untyped-def]
    assert not NAMES & said(pipeline).keys()


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_vae_whose_decode_is_not(way: str, pipeline) -> None:  # type: ignore[no-untyped-def]
    if way == "wrapped":
        pipeline.vae = torch.compile(pipeline.vae, backend="eager")
    else:
        pipeline.vae.compile(backend="eager")
    finding = said(pipeline)["compiled-in-vain"]
    assert finding.seconds == pytest.approx(0.8)
    assert "pipe.vae.decode = torch.compile(pipe.vae.decode)" in finding.message


@pytest.mark.parametrize("part", ["decode", "decoder"])
def test_a_vae_that_is_compiled_where_it_is_called(part: str, pipeline) -> None:  # type: ignore[no-untyped-def]
    compiled = torch.compile(getattr(pipeline.vae, part), backend="eager")
    setattr(pipeline.vae, part, compiled)
    assert "compiled-in-vain" not in said(pipeline)
    assert not [m for m in facts(pipeline, {}).of_part("vae") if not m.compiled]


def test_a_broken_picture_comes_first_and_into_the_summary(pipeline) -> None:  # type: ignore[no-untyped-def]
    pipeline.vae.half()
    broken = CallPictures(count=2, longer_side=64, faults=("it is black",))
    told = findings(evidence(pipeline, drawn=broken))
    session = with_predictions(session_of(rows(), told))
    assert session.findings[0].id == "broken-picture"
    assert "the vae is in float16" in session.findings[0].message
    assert "1 of 2 pictures" in str(report_of(session).summary)


def test_a_preview_at_every_step(pipeline) -> None:  # type: ignore[no-untyped-def]
    finding = said(pipeline, rows(decodes=5))["decoded-too-often"]
    assert finding.seconds == pytest.approx(0.8 * 4 / 5)
    assert "decoded-too-often" not in said(pipeline, rows(decodes=5), drawn=CallPictures(count=8))


def test_tiles_and_slices_that_the_picture_needs_or_not(pipeline) -> None:  # type: ignore[no-untyped-def]
    pipeline.vae.enable_tiling()
    pipeline.vae.tile_sample_min_size = 256
    assert said(pipeline)["vae-in-pieces"].fix == "vae-slicing-off"
    pipeline.vae.tile_sample_min_size = 512
    assert "vae-in-pieces" not in said(pipeline)
    pipeline.vae.enable_slicing()
    assert "vae-in-pieces" not in said(pipeline)  # one picture is one slice
    assert "vae-in-pieces" in said(pipeline, drawn=CallPictures(count=2, longer_side=64))


class BaseTunerLayer(nn.Module):
    """A layer of the model with an active adapter around it, as peft makes one."""

    active_adapters, merged_adapters, disable_adapters = ("style",), (), False

    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.lora = nn.Linear(8, 8), nn.Linear(8, 2)


def test_an_adapter_that_every_step_pays_for(pipeline) -> None:  # type: ignore[no-untyped-def]
    pipeline.unet.adapted = BaseTunerLayer()
    finding = said(pipeline)["lora-unfused"]
    assert "style" in finding.message
    own = sum(weight.numel() for weight in pipeline.unet.adapted.lora.parameters())
    whole = sum(weight.numel() for weight in pipeline.unet.parameters())
    assert finding.seconds == pytest.approx(own / whole)
    pipeline.unet.adapted.merged_adapters = ("style",)
    assert "lora-unfused" not in said(pipeline)


@pytest.mark.parametrize(
    ("stage", "name"), [("offload", "offloading"), ("safety_checker", "safety-checker")]
)
def test_stages_that_a_user_can_do_without(stage: str, name: str, pipeline) -> None:  # type: ignore[no-untyped-def]
    assert said(pipeline, rows(**{stage: 0.1}))[name].seconds == pytest.approx(0.1)
    assert name not in said(pipeline, rows(**{stage: 0.01}))


def test_compilation_in_the_middle_of_steady_calls(pipeline) -> None:  # type: ignore[no-untyped-def]
    report = CompileReport(
        compile_seconds=9.0, steady_compile_seconds=3.0, steady_compile_seconds_a_call=1.0
    )
    assert said(pipeline, compilation=report)["compiling"].ceiling == pytest.approx(2.0)
    calm = CompileReport(compile_seconds=9.0)
    assert "compiling" not in said(pipeline, compilation=calm)


@pytest.mark.parametrize(
    ("compile_seconds", "encoding", "fix", "word"),
    [
        (7.0, 0.1, None, "torch.compile took"),
        (0.0, 7.0, "text-warmup", "text encoders"),
        (0.0, 0.1, None, "whole call"),
    ],
)
def test_the_first_call_names_its_cause(  # type: ignore[no-untyped-def]
    compile_seconds: float, encoding: float, fix: str | None, word: str, pipeline
) -> None:
    encode = LedgerRow(stage="encode_prompt", seconds=0.01, share=0.0, first_call_seconds=encoding)
    finding = said(
        pipeline,
        (*rows(), encode),
        first_call_seconds=10.0,
        compilation=CompileReport(compile_seconds=compile_seconds),
    )["first-call"]
    assert finding.fix == fix
    assert word in finding.message


# ---- predictions


def session_of(
    ledger: tuple[LedgerRow, ...], told: tuple[Finding, ...], device: str = "cpu"
) -> Session:
    return Session(
        wall_seconds=sum(row.seconds for row in ledger),
        ledger=ledger,
        findings=told,
        environment=Environment(
            system="s",
            processor="p",
            cores=2,
            memory_bytes=1,
            threads=2,
            device=device,
            device_name="p",
        ),
        workload=Workload(),
    )


SECONDS = st.floats(0.001, 10)


@given(
    st.fixed_dictionaries({part: SECONDS for part, _ in PARTS}),
    st.fixed_dictionaries(dict.fromkeys(("encode_prompt", "vae_decode", "postprocess"), SECONDS)),
    st.sampled_from([name for name, fix in FIX_ROWS.items() if fix.priors]),
    st.floats(0, 1),
    st.sampled_from(["cpu", "cuda"]),
)
def test_no_prediction_is_above_its_own_ceiling(
    parts: dict[str, float], stages: dict[str, float], fix: str, share: float, device: str
) -> None:
    denoise = sum(parts.values())
    ledger = (
        LedgerRow(
            stage="denoise",
            seconds=denoise,
            share=0.0,
            parts=tuple(LedgerRow(stage=p, seconds=s, share=0.0) for p, s in parts.items()),
        ),
        *(LedgerRow(stage=stage, seconds=s, share=0.0) for stage, s in stages.items()),
    )
    wall = denoise + sum(stages.values())
    cost = share * parts["scheduler"]
    finding = Finding(
        id="x", stage="denoise", message="", seconds=cost, ceiling=wall / (wall - cost), fix=fix
    )
    session = session_of(ledger, (finding,), device)
    [judged] = with_predictions(session).findings
    assert judged.ceiling is None or judged.predicted <= judged.ceiling * (1 + 1e-9)


def test_the_summary_recommends_no_fix_that_brings_nothing() -> None:
    told = (
        Finding(
            id="scheduler-step",
            stage="denoise",
            message="",
            seconds=0.01,
            ceiling=1.001,
            fix="schedule-table",
        ),
        Finding(id="host-gap", stage="denoise", message="", seconds=0.4, ceiling=1.25),
    )
    summary = str(report_of(with_predictions(session_of(rows(vae=0.9), told))).summary)
    assert "schedule-table" not in summary
    assert "the costliest finding is host-gap, worth at most 1.25x" in summary


def test_a_real_call_that_drew_noise_says_so() -> None:
    """Random weights draw noise: what a wrong solver or a wrong file looks like."""
    pipeline = PIPELINES["sd15"].build()
    pipeline.vae.decode = lambda latents, **options: (torch.rand(1, 3, 32, 32) * 2 - 1,)
    session = halftime.profile(
        pipeline, Workload(steps=2, width=32, height=32), runs=1, warmup=0, probes=False
    )
    assert session.findings[0].id == "broken-picture"
    assert "noise" in session.findings[0].message
