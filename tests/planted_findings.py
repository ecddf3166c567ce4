"""One call in which nothing is wrong, and for each finding of `profile` the same call with exactly
that fault planted. docs/findings.md is written from it by `python -m benchmarks.profile.page`."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import NamedTuple

from rich.console import Console

from halftime.records import (
    CompileReport,
    Environment,
    LedgerRow,
    MemoryGrowth,
    MemoryReport,
    Recompile,
    Session,
    Span,
    StageMemory,
    WeightMoves,
    Workload,
)
from halftime.records.priors import with_predictions
from halftime.records.stages import COMPILATION
from halftime.report.console import print_report
from halftime.report.session import report_of
from halftime.verbs.profile.compilation import plain_words
from halftime.verbs.profile.evidence import FindingName, ProfileEvidence
from halftime.verbs.profile.facts import Facts, ModuleFacts
from halftime.verbs.profile.findings import findings
from halftime.verbs.profile.guidance import GuidanceFacts
from halftime.verbs.profile.thumbnails import PictureFacts

GIB = 2**30
WIDTH = 100  # columns of the page's examples

# ---- what is well: a UNet on a CPU


def row(
    stage: str, seconds: float, *parts: LedgerRow, first: float | None = None, **more: float
) -> LedgerRow:
    return LedgerRow(
        stage=stage,
        seconds=seconds,
        share=seconds / 10,
        parts=parts,
        first_call_seconds=first,
        **more,
    )


def span(name: str, stage: str, part: str, seconds: float = 1.0, depth: int = 0) -> Span:
    return Span(stage=stage, name=name, part=part, start=0.0, seconds=seconds, depth=depth)


GOOD = {"dtype": "bfloat16", "convolutional": True, "channels_last": True, "compiled": True}
UNET = ModuleFacts("unet", "denoiser", **GOOD)
VAE = ModuleFacts("vae", "vae", **GOOD, decoder_channels=256)
TEXT = ModuleFacts("text_encoder", "text_encoder", **GOOD)
FACTS = Facts(
    "StableDiffusionPipeline",
    "cpu",
    "EulerDiscreteScheduler",
    (UNET, VAE, TEXT),
    fast_bfloat16=True,
    slow_float16=True,
    wait_policy="PASSIVE",
    free_bytes=64 * GIB,
)
DECODE = span("vae.decode", "vae_decode", "vae", 2.0)
STEPS = row("denoise", 7.5, row("denoiser", 7.4), row("scheduler", 0.1))
LEDGER = (row("encode_prompt", 0.3), STEPS, row("vae_decode", 2.0), row("postprocess", 0.2))
PICTURE = PictureFacts(1, 1024 * 1024, ())
CALM = ProfileEvidence(
    10.0, 10.0, LEDGER, FACTS, None, 0.1, 2, spans=(DECODE,), drawing=PICTURE, steps=30
)

# ---- what is well on a card: the same, and a transformer with all that makes one fast

STAGES = (
    StageMemory(stage="denoise", peak_bytes=9 * GIB),
    StageMemory(stage="vae_decode", peak_bytes=12 * GIB),
)
MEMORY = MemoryReport(
    measure="CUDA allocator", stages=STAGES, of_device=True, capacity_bytes=24 * GIB
)
CARD = replace(
    FACTS,
    device="cuda",
    slow_float16=False,
    wait_policy="",
    free_bytes=8 * GIB,
    weight_bytes=6 * GIB,
    cachable=True,
)
ON_CARD = replace(CALM, facts=CARD, memory=MEMORY)
DIT = ModuleFacts(
    "transformer",
    "denoiser",
    "bfloat16",
    convolutional=False,
    channels_last=False,
    compiled=True,
    transformer=True,
    cached=True,
    quantised="torchao",
    attention_backend="_flash_3",
    parameters=12 * 10**9,
)
TRANSFORMER = replace(ON_CARD, facts=replace(CARD, modules=(DIT, VAE, TEXT)))

# ---- ways to change it


def ids(evidence: ProfileEvidence) -> list[str]:
    return [finding.id for finding in findings(evidence)]


def with_module(evidence: ProfileEvidence, name: str, **more: object) -> ProfileEvidence:
    """With one module changed."""
    modules = tuple(
        replace(module, **more) if module.name == name else module  # type: ignore[arg-type]
        for module in evidence.facts.modules
    )
    return replace(evidence, facts=replace(evidence.facts, modules=modules))


def changed(module: ModuleFacts, **more: object) -> ProfileEvidence:
    """The call on the CPU with one module changed."""
    return with_module(CALM, module.name, **more)


def of(module: ModuleFacts, **more: object) -> ProfileEvidence:
    """The call on the card with one module of the UNet's or the transformer's pipeline changed."""
    return with_module(TRANSFORMER if module is DIT else ON_CARD, module.name, **more)


def with_ledger(*rows: LedgerRow, **more: object) -> ProfileEvidence:
    """The call on the CPU with rows changed or added."""
    stages = {own.stage: own for own in (*LEDGER, *rows)}
    return replace(CALM, ledger=tuple(stages.values()), **more)  # type: ignore[arg-type]


def denoise(seconds: float, **parts: float) -> LedgerRow:
    """The loop's row; what its parts leave is the denoiser's."""
    own = {"denoiser": seconds - sum(parts.values()), **parts}
    return row("denoise", seconds, *(row(part, value) for part, value in own.items()))


def slow_first(*stages: str, seconds: float) -> tuple[LedgerRow, ...]:
    """Rows of a first call that took longer in these stages."""
    rows = (*LEDGER, row(COMPILATION, 0.0))
    return tuple(
        row(
            own.stage,
            own.seconds,
            *own.parts,
            first=own.seconds + (seconds if own.stage in stages else 0.0),
        )
        for own in rows
    )


PREVIEWS = (
    span("callback", "denoise", "callback", 0.25, depth=1),
    span("vae.decode", "vae_decode", "vae", 0.2, depth=2),
) * 10
CHECKED = row("postprocess", 1.2, row("safety_checker", 1.0), row("image_processor", 0.2))
TILED = span("vae.tiled_decode", "vae_decode", "vae", 1.9, 1)
SIZE = "tensor 'sample' size mismatch at index 2. expected 64, actual 96"
RESIZED = Recompile(where="pipeline_sd.py:1 forward", reason=plain_words(SIZE))
RECOMPILED = CompileReport(compiled=("unet",), after_warmup=3, recompiles=(RESIZED,))
BROKEN_GRAPHS = CompileReport(
    compiled=("unet",), graph_breaks=(Recompile(where="", reason="call to print", count=3),)
)
GROWN = MemoryReport(
    measure="",
    stages=STAGES,
    growth_per_call=30 * 2**18,
    left_behind=(
        MemoryGrowth(stage="denoise", kind="float32 tensor 1x4x128x128", count=2, bytes=2**19),
    ),
    capacity_bytes=None,
)
FULL = MemoryReport(measure="", stages=STAGES, of_device=True, capacity_bytes=13 * GIB)
MOVED = WeightMoves(
    component="unet",
    stage="denoise",
    to_device=True,
    how="model",
    count=1,
    steps=1,
    bytes=5 * GIB,
    seconds=1.5,
)


class Planted(NamedTuple):
    """A fault in words, and the call that has it."""

    fault: str
    evidence: ProfileEvidence


PLANTED: dict[FindingName, Planted] = {
    "broken-picture": Planted(
        "a VAE in fp16 whose numbers overflow",
        replace(
            with_module(ON_CARD, "vae", dtype="float16"),
            drawing=PictureFacts(1, 1024 * 1024, ("it is black",)),
        ),
    ),
    "denoiser-fp32": Planted(
        "a UNet in fp32, where bf16 is faster", changed(UNET, dtype="float32")
    ),
    "denoiser-fp16": Planted(
        "a UNet in fp16 on a CPU that emulates it", changed(UNET, dtype="float16")
    ),
    "denoiser-contiguous": Planted(
        "a UNet whose convolutions are channels-first", changed(UNET, channels_last=False)
    ),
    "denoiser-eager": Planted("a UNet that is not compiled", changed(UNET, compiled=False)),
    "vae-fp32": Planted(
        "a VAE in fp32, channels-first and not compiled: the fixes come in this order",
        changed(VAE, dtype="float32", channels_last=False, compiled=False),
    ),
    "vae-fp16": Planted("a VAE in fp16 on a CPU that emulates it", changed(VAE, dtype="float16")),
    "vae-contiguous": Planted(
        "a VAE whose convolutions are channels-first", changed(VAE, channels_last=False)
    ),
    "vae-eager": Planted("a VAE that is not compiled", changed(VAE, compiled=False)),
    "vae-upcast": Planted(
        "a VAE in fp16 with `force_upcast`", of(VAE, dtype="float16", upcasts=True)
    ),
    "vae-decodes": Planted("four decodes for one picture", replace(CALM, spans=(DECODE,) * 4)),
    "vae-slicing": Planted(
        "`enable_slicing()` and a batch of four",
        replace(changed(VAE, slicing=True), drawing=replace(PICTURE, count=4)),
    ),
    "vae-tiling": Planted(
        "`enable_tiling()` for a picture that fits", replace(CALM, spans=(DECODE, TILED))
    ),
    "text-fp32": Planted(
        "a text encoder in fp32 beside a UNet in bf16", changed(TEXT, dtype="float32")
    ),
    "prompt-encoding": Planted("a large text encoder", with_ledger(row("encode_prompt", 1.5))),
    "text-first-call": Planted(
        "a text encoder that is slow in the first call alone",
        with_ledger(row("encode_prompt", 0.3, first=3.3), first_call_seconds=13.0),
    ),
    "first-call": Planted(
        "a UNet that is compiled in the first call",
        with_ledger(*slow_first(COMPILATION, seconds=40.0), first_call_seconds=50.0),
    ),
    "loop-glue": Planted(
        "a slow progress bar, and Python between the components",
        with_ledger(denoise(7.5, progress_bar=0.5, glue=0.2)),
    ),
    "scheduler-step": Planted(
        "a scheduler of many small kernels", with_ledger(denoise(7.5, scheduler=0.6))
    ),
    "callback": Planted(
        "a callback that decodes a preview in every third step",
        with_ledger(denoise(7.5, callback=2.5), spans=(*PREVIEWS, DECODE)),
    ),
    "postprocess": Planted(
        "large pictures that become PIL images", with_ledger(row("postprocess", 0.9))
    ),
    "safety-checker": Planted("a safety checker", with_ledger(CHECKED)),
    "compile-without-effect": Planted(
        "`pipe.vae = torch.compile(pipe.vae)`", changed(VAE, compiled_whole=True)
    ),
    "compiled-not-called": Planted(
        "`compiled = torch.compile(pipe.unet)`, which was never assigned",
        changed(UNET, compiled_elsewhere=True),
    ),
    "compiles-in-steady-calls": Planted(
        "a picture of another size in every call, and a UNet compiled for one",
        with_ledger(row(COMPILATION, 5.0), compilation=RECOMPILED, compiled_for=("mine.py:7",)),
    ),
    "recompiles": Planted(
        "the same, where compiling is cheap", replace(CALM, compilation=RECOMPILED)
    ),
    "graph-breaks": Planted(
        "a `print` in what is compiled", replace(CALM, compilation=BROKEN_GRAPHS)
    ),
    "old-attention": Planted(
        "`set_attn_processor(AttnProcessor())`", changed(UNET, old_attention="AttnProcessor")
    ),
    "attention-slicing": Planted(
        "`enable_attention_slicing()`", changed(UNET, old_attention="SlicedAttnProcessor")
    ),
    "lora-unfused": Planted(
        "a LoRA beside the weights",
        replace(changed(UNET, adapters=("style",), adapted_layers=128), adapter_share=0.25),
    ),
    "guidance-for-nothing": Planted(
        "`guidance_scale=1`, and a denoiser that is evaluated twice all the same",
        replace(ON_CARD, guidance=GuidanceFacts(2, "guidance_scale", 1.0)),
    ),
    "transformer-cache": Planted("a transformer without a step cache", of(DIT, cached=False)),
    "transformer-attention": Planted(
        "a transformer with torch's default attention", of(DIT, attention_backend="native")
    ),
    "transformer-quantise": Planted(
        "a transformer of 12 billion parameters in bf16", of(DIT, quantised="")
    ),
    "host-waits": Planted(
        "a scheduler that reads a number back from the card in each step",
        with_ledger(
            row("denoise", 7.5, *STEPS.parts, host_blocked_seconds=0.8), facts=CARD, memory=MEMORY
        ),
    ),
    "launch-bound": Planted(
        "kernels that end before the host has launched the next",
        with_ledger(
            row("denoise", 7.5, *STEPS.parts, launch_gap_seconds=3.0), facts=CARD, memory=MEMORY
        ),
    ),
    "memory-grows": Planted(
        "a callback that keeps its latents in a list", replace(ON_CARD, memory=GROWN)
    ),
    "memory-nearly-full": Planted(
        "a card that is just large enough", replace(ON_CARD, memory=FULL)
    ),
    "weights-moved": Planted(
        "`enable_model_cpu_offload()` on a card that holds everything",
        replace(ON_CARD, moves=(MOVED,)),
    ),
    "openmp-spins": Planted(
        "other work on the machine, and no OMP_WAIT_POLICY",
        replace(CALM, load_average=3.0, facts=replace(FACTS, wait_policy="")),
    ),
}

# ---- as the report prints it


def printed(evidence: ProfileEvidence) -> list[str]:
    """The lines of the report's section on findings."""
    facts = evidence.facts
    place = Environment(
        system="Linux",
        processor="",
        cores=evidence.cores,
        memory_bytes=64 * GIB,
        threads=evidence.cores,
        device=facts.device,
        device_name="",
    )
    session = Session(
        pipeline=facts.pipeline,
        wall_seconds=evidence.wall_seconds,
        ledger=evidence.ledger,
        findings=findings(evidence),
        environment=place,
        workload=Workload(steps=evidence.steps),
    )
    console = Console(file=StringIO(), width=WIDTH, highlight=False, color_system=None)
    print_report(report_of(with_predictions(session)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    section = text.partition("\nFindings\n")[2].partition("\n\n")[0]
    return [line.rstrip() for line in section.splitlines()]
