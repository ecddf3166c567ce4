"""Rules about what was left on or put in by habit: each planted, and silent where all is well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

import halftime
from halftime.base.pixels import NOISE
from halftime.records import LedgerRow, Session, Span, Workload
from halftime.records.stages import COMPILATION
from halftime.report.session import report_of
from halftime.upstream.pytorch import is_compiled_whole
from halftime.verbs.profile.compilation import plain_words
from halftime.verbs.profile.facts import ModuleFacts, facts
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.thumbnails import PictureFacts, drawing_of
from planted_findings import (
    CALM,
    DECODE,
    FACTS,
    PICTURE,
    PLANTED,
    PREVIEWS,
    TEXT,
    UNET,
    VAE,
    changed,
    denoise,
    ids,
    row,
    slow_first,
    span,
    with_ledger,
)
from tiny_pipelines import PIPELINES


def test_nothing_is_said_of_a_good_call() -> None:
    assert findings(CALM) == ()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dtype": "float16"}, "torch.bfloat16"),
        ({"dtype": "float32"}, "output_type='latent'"),
    ],
)
def test_a_broken_picture_names_a_cure(more: dict[str, str], words: str) -> None:
    evidence = replace(changed(VAE, **more), drawing=PictureFacts(1, 1, ("it is black",)))
    finding = next(f for f in findings(evidence) if f.id == "broken-picture")
    assert finding.broken
    assert "it is black" in finding.message
    assert words in finding.message


def test_noise_after_many_steps_is_a_fault_and_after_two_is_not() -> None:
    noise = replace(CALM, drawing=PictureFacts(1, 1, (NOISE,)))
    [finding] = findings(noise)
    assert "Euler" in finding.message
    assert findings(replace(noise, steps=2)) == ()


def test_a_callback_and_what_it_decodes() -> None:
    [finding] = findings(PLANTED["callback"].evidence)
    assert (finding.id, finding.seconds) == ("callback", 2.5)
    assert "10 calls. It decodes 10 pictures" in finding.message
    cheap = denoise(7.5, callback=0.1)
    assert ids(with_ledger(cheap, spans=(*PREVIEWS, DECODE))) == []


def test_more_decodes_than_pictures() -> None:
    [finding] = findings(replace(CALM, spans=(DECODE,) * 4))
    assert (finding.id, finding.seconds) == ("vae-decodes", 6.0)
    assert ids(replace(CALM, spans=(DECODE,) * 4, drawing=replace(PICTURE, count=4))) == []
    assert ids(replace(CALM, spans=(DECODE,) * 4, drawing=None)) == []


def test_slicing_is_a_fault_where_there_is_a_batch() -> None:
    evidence = changed(VAE, slicing=True)
    [finding] = findings(replace(evidence, drawing=replace(PICTURE, count=4)))
    assert (finding.id, finding.fix) == ("vae-slicing", "vae-slicing-off")
    assert ids(evidence) == []


def test_tiling_is_a_fault_where_memory_suffices() -> None:
    tiled = PLANTED["vae-tiling"].evidence
    assert ids(tiled) == ["vae-tiling"]
    assert ids(replace(tiled, facts=replace(FACTS, free_bytes=3 << 30))) == []


@pytest.mark.parametrize(
    ("module", "more", "expected"),
    [
        (UNET, {"old_attention": "AttnProcessor"}, ["old-attention"]),
        (UNET, {"old_attention": "SlicedAttnProcessor"}, ["attention-slicing"]),
        (TEXT, {"dtype": "float32"}, ["text-fp32"]),
        (VAE, {"upcasts": True}, ["vae-upcast"]),
    ],
)
def test_what_was_left_on(
    module: ModuleFacts, more: dict[str, object], expected: list[str]
) -> None:
    assert ids(changed(module, **more)) == expected


def test_text_encoders_in_fp32_beside_a_denoiser_in_fp32_are_not_said_twice() -> None:
    modules = tuple(replace(module, dtype="float32") for module in FACTS.modules)
    assert "text-fp32" not in ids(replace(CALM, facts=replace(FACTS, modules=modules)))


def test_adapters_cost_what_their_layers_were_measured_at() -> None:
    evidence = replace(changed(UNET, adapters=("style",), adapted_layers=9), adapter_share=0.25)
    [finding] = findings(evidence)
    assert (finding.id, finding.seconds) == ("lora-unfused", 7.4 * 0.25)
    assert ids(replace(evidence, adapter_share=0.01)) == []


def test_a_safety_checker() -> None:
    last = row("postprocess", 0.35, row("safety_checker", 0.3), row("image_processor", 0.05))
    assert ids(with_ledger(last)) == ["safety-checker"]


@pytest.mark.parametrize(
    ("last", "spans", "expected"),
    [
        (row("postprocess", 0.9), (), ["postprocess"]),
        (row("postprocess", 0.2), (), []),
        (row("postprocess", 0.9), (span("vocoder", "postprocess", "vocoder"),), []),
        (row("postprocess", 0.9, row("vocoder", 0.8), row("glue", 0.1)), (), []),
        (
            row("postprocess", 0.9, row("safety_checker", 0.1), row("glue", 0.8)),
            (),
            ["postprocess"],
        ),
    ],
)
def test_pictures_converted_on_the_host_and_not_what_networks_take(
    last: LedgerRow, spans: tuple[Span, ...], expected: list[str]
) -> None:
    assert ids(with_ledger(last, spans=(DECODE, *spans))) == expected


def test_compiling_in_steady_calls_is_first_and_names_the_users_line() -> None:
    [finding] = findings(PLANTED["compiles-in-steady-calls"].evidence)
    assert (finding.id, finding.seconds, finding.where) == (
        "compiles-in-steady-calls",
        5.0,
        ("mine.py:7",),
    )
    assert "the size of sample changed" in finding.message


@pytest.mark.parametrize(
    ("stage", "fix"), [(COMPILATION, None), ("encode_prompt", "text-warmup"), ("denoise", None)]
)
def test_a_first_call_names_its_own_cause(stage: str, fix: str | None) -> None:
    evidence = with_ledger(*slow_first(stage, seconds=40.0), first_call_seconds=50.0)
    finding = next(f for f in findings(evidence) if f.id == "first-call")
    assert finding.fix == fix
    assert f"40.0 s of that in {stage}" in finding.message


def test_a_compilation_that_the_pipeline_does_not_call() -> None:
    evidence = changed(VAE, compiled_whole=True)
    [finding] = findings(evidence)
    assert (finding.id, finding.fix) == ("compile-without-effect", "vae-compile")
    assert "pipeline.vae.decode = torch.compile(pipeline.vae.decode)" in finding.message
    called = replace(evidence, spans=(DECODE, span("vae", "vae_decode", "vae")))
    assert ids(called) == []


def test_which_modules_are_compiled_as_a_whole() -> None:
    vae = PIPELINES["sd15"].build().vae
    assert is_compiled_whole(torch.compile(vae, backend="eager"))
    assert not is_compiled_whole(vae)
    vae.decoder = torch.compile(vae.decoder, backend="eager")
    assert not is_compiled_whole(vae)


def test_guards_in_names_that_their_author_wrote() -> None:
    size = "tensor 'kwargs['hidden_states']' size mismatch at index 1. expected 64, actual 144"
    assert plain_words(size).startswith("the size of hidden_states changed from 64 to 144")
    swapped = "KeyError on L['self']._modules['to_q']._modules['lora_A']._modules['second']"
    assert "enable_lora_hotswap" in plain_words(swapped)


@pytest.mark.parametrize(
    ("picture", "fault"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), "it is black"),
        (np.full((1, 32, 32, 3), 0.5, np.float32), "it has one colour only"),
        (np.full((1, 32, 32, 3), np.nan, np.float32), "it holds NaN or infinity"),
        (np.random.default_rng(0).random((1, 32, 32, 3), np.float32), NOISE),
    ],
)
def test_faults_of_what_was_drawn(picture: np.ndarray, fault: str) -> None:
    drawing = drawing_of((picture,))
    assert drawing is not None
    assert (drawing.count, drawing.faults) == (1, (fault,))


def test_a_good_picture_has_no_fault_and_latents_are_no_picture() -> None:
    slope = Image.linear_gradient("L").convert("RGB")
    assert drawing_of(([slope],)) == PictureFacts(1, 256 * 256, ())
    assert drawing_of((torch.zeros(1, 16, 8, 8),)) is None


@pytest.fixture(scope="module")
def planted() -> Session:
    """One real call with everything in it at once: a compiled VAE that decodes eagerly, black, with
    previews from a callback."""
    pipeline = PIPELINES["sd15"].build()
    pipeline.vae.decoder.conv_out.weight.data.zero_()
    pipeline.vae.decoder.conv_out.bias.data.fill_(-1.0)
    pipeline.vae = torch.compile(pipeline.vae, backend="eager")
    pipeline.unet.set_attn_processor(AttnProcessor())

    def preview(pipe, step, timestep, tensors):  # the callback of diffusers' guide
        pipe.vae.decode(tensors["latents"])
        return tensors

    return halftime.profile(
        pipeline,
        Workload(steps=3, width=32, height=32),
        runs=1,
        warmup=0,
        probes=False,
        callback_on_step_end=preview,
    )


def test_planted_faults_are_seen_in_a_real_call(planted: Session) -> None:
    names = [finding.id for finding in planted.findings]
    assert names[0] == "broken-picture"
    assert {"compile-without-effect", "callback", "old-attention"} <= {*names}
    assert "mend that first" in report_of(planted).summary


def test_the_ledger_still_adds_up_with_a_callback(planted: Session) -> None:
    assert sum(own.seconds for own in planted.ledger) == pytest.approx(planted.wall_seconds)
    steps = planted.row("denoise")
    assert steps is not None
    assert "callback" in {part.stage for part in steps.parts}


@pytest.mark.parametrize(("name", "upcasts"), [("sdxl", True), ("sd15", False)])
def test_what_was_left_on_is_seen_on_a_pipeline(name: str, upcasts: bool) -> None:
    """The VAE's config says force_upcast by default, and only some calls heed it."""
    pipeline = PIPELINES[name].build()
    pipeline.vae.half()
    pipeline.vae.register_to_config(force_upcast=True)
    pipeline.vae.enable_slicing()
    pipeline.unet.set_attention_slice("auto")
    modules = {module.name: module for module in facts(pipeline, {}).modules}
    assert (modules["vae"].slicing, modules["vae"].upcasts) == (True, upcasts)
    assert modules["unet"].old_attention == "SlicedAttnProcessor"


def test_what_a_healthy_pipeline_is() -> None:
    plain = facts(PIPELINES["sd15"].build(), {})
    for module in plain.modules:
        bare = ModuleFacts(
            module.name, module.part, module.dtype, module.convolutional, False, False
        )
        size = {"decoder_channels": 0, "parameters": 0}
        assert replace(module, channels_last=False, overflows=False, **size) == bare  # type: ignore[arg-type]
