"""Rules about what was left on or put in by habit: pictures that are broken, previews, callbacks,
slices, old attention, adapters, checkers."""

from __future__ import annotations

from collections.abc import Iterator

from halftime.base import units
from halftime.base.pixels import NOISE
from halftime.records import Finding
from halftime.verbs.profile.evidence import ProfileEvidence, Rule, counted, finding_of

# In fewer, a model that draws pixels without a VAE is noise by right.
FEWEST_STEPS = 8


def _broken_picture(evidence: ProfileEvidence) -> Iterator[Finding]:
    """What makes every other number worthless: no cost, and first of all."""
    for fault in evidence.drawing.faults if evidence.drawing else ():
        if fault == NOISE and evidence.steps < FEWEST_STEPS:
            continue
        yield finding_of(
            "broken-picture",
            "picture",
            f"what this call drew is no picture: {fault}. {_cure(fault, evidence)}",
            broken=True,
        )


def _cure(fault: str, evidence: ProfileEvidence) -> str:
    halves = [module.name for module in evidence.facts.modules if module.dtype == "float16"]
    if fault == NOISE:
        return (
            f"Its solver ({evidence.facts.scheduler}) may not fit the model (prediction type, flow "
            "matching), or the steps are too few: draw with the scheduler that the model came with"
        )
    if halves:
        run = "runs" if len(halves) == 1 else "run"
        return (
            f"The {' and '.join(halves)} {run} in fp16, whose largest "
            "number is 65,504: load the pipeline in torch.bfloat16, or the VAE alone in float32"
        )
    return "Look at the latents (output_type='latent') to see whether the denoiser or the VAE fails"


def _callback(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("denoise", "callback")
    row = evidence.row("denoise", "callback")
    if row is None or not evidence.worth_saying(seconds):
        return
    times = sum(span.part == "callback" for span in evidence.spans)
    decodes = sum(
        span.stage == "vae_decode" and span.depth > 1 and span.name.endswith(".decode")
        for span in evidence.spans
    )
    inside = (
        f"It decodes {counted(decodes, 'picture')}: every few steps, or through a tiny VAE "
        "(AutoencoderTiny), is enough for a preview"
        if decodes
        else "Call it less often, and read nothing back from the device in it"
    )
    yield evidence.finding(
        "callback",
        "denoise",
        seconds,
        None,
        f"your callback takes {evidence.part_of_call(seconds)} in {counted(times, 'call')}. "
        f"{inside}",
    )


def _more_decodes_than_pictures(evidence: ProfileEvidence) -> Iterator[Finding]:
    """Decodes in the loop, outside of a callback that is named already."""
    decodes = [
        span
        for span in evidence.spans
        if span.stage == "vae_decode" and span.name.endswith(".decode") and span.depth <= 1
    ]
    if evidence.drawing is None or len(decodes) <= evidence.drawing.count:
        return
    pictures = evidence.drawing.count
    spare = sum(span.seconds for span in decodes) * (len(decodes) - pictures) / len(decodes)
    if evidence.worth_saying(spare):
        yield evidence.finding(
            "vae-decodes",
            "vae_decode",
            spare,
            None,
            f"the VAE decodes {len(decodes)} times for {counted(pictures, 'picture')}; what is "
            f"not shown costs {evidence.part_of_call(spare)}: preview through a tiny VAE "
            "(AutoencoderTiny), or less often",
        )


def _slices(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("vae_decode", "vae")
    drawing = evidence.drawing
    batch = (drawing.films or drawing.count) if drawing else 1  # a slice is a whole film
    kind = "films" if drawing and drawing.films else "pictures"
    for module in evidence.facts.of_part("vae"):
        sliced = module.slicing and batch > 1
        if sliced and evidence.worth_saying(seconds):
            yield evidence.finding(
                "vae-slicing",
                "vae_decode",
                seconds,
                "vae-slicing-off",
                f"the {module.name} decodes {batch} {kind} one by one "
                f"({evidence.part_of_call(seconds)}): slicing saves memory and costs time; where "
                f"memory suffices, pipeline.{module.name}.disable_slicing()",
            )


def _tiles(evidence: ProfileEvidence) -> Iterator[Finding]:
    tiled = [span for span in evidence.spans if span.name.endswith(".tiled_decode")]
    seconds = sum(span.seconds for span in tiled)
    if not tiled or not evidence.worth_saying(seconds):
        return
    name = tiled[0].name.partition(".")[0]
    free, need = evidence.facts.free_bytes, _decode_bytes(name, evidence)
    if free and need and 2 * need < free:
        yield evidence.finding(
            "vae-tiling",
            "vae_decode",
            seconds,
            None,
            f"the {name} decodes in overlapping tiles ({evidence.part_of_call(seconds)}), and "
            f"{units.size(free)} of memory are free where one decode takes about "
            f"{units.size(need)}: pipeline.{name}.disable_tiling()",
        )


_LIVE_TENSORS = 4  # at once in the largest block of a decoder, roughly


def _decode_bytes(name: str, evidence: ProfileEvidence) -> int:
    """What decoding one picture without tiles takes, roughly; 0 where the VAE does not say."""
    module = next((m for m in evidence.facts.modules if m.name == name), None)
    if module is None or evidence.drawing is None:
        return 0
    size = 4 if module.dtype == "float32" else 2
    return _LIVE_TENSORS * size * module.decoder_channels * evidence.drawing.pixels


def _old_attention(evidence: ProfileEvidence) -> Iterator[Finding]:
    for module in (*evidence.facts.of_part("denoiser"), *evidence.facts.of_part("vae")):
        stage = "denoise" if module.part == "denoiser" else "vae_decode"
        seconds = evidence.costs(stage, module.part)
        if module.old_attention and evidence.worth_saying(seconds):
            sliced = "Sliced" in module.old_attention
            cure = (
                "pipeline.disable_attention_slicing()"
                if sliced and module.part == "denoiser"
                else f"pipeline.{module.name}.set_attn_processor(AttnProcessor2_0())"
            )
            yield evidence.finding(
                "attention-slicing" if sliced else "old-attention",
                stage,
                seconds,
                None,
                f"the {module.name} goes through {module.old_attention}, which forms the whole "
                "matrix of attention or does it in slices, where torch has one fused kernel "
                f"({evidence.part_of_call(seconds)} in this component): {cure}",
            )


def _text_in_fp32(evidence: ProfileEvidence) -> Iterator[Finding]:
    """Only where the rest is not: a pipeline in fp32 is said to be so by its heavy parts."""
    facts = evidence.facts
    denoisers = facts.of_part("denoiser")
    left = [m for m in facts.of_part("text_encoder") if m.dtype == "float32"]
    seconds = evidence.costs("encode_prompt")
    lower = denoisers and all(m.dtype in ("bfloat16", "float16") for m in denoisers)
    if left and lower and facts.fast_bfloat16 and evidence.worth_saying(seconds):
        names = " and ".join(module.name for module in left)
        lines = "; ".join(f"pipeline.{module.name}.to(torch.bfloat16)" for module in left)
        yield evidence.finding(
            "text-fp32",
            "encode_prompt",
            seconds,
            None,
            f"the {names} stayed in fp32 beside a denoiser in {denoisers[0].dtype} "
            f"({evidence.part_of_call(seconds)}): {lines}",
        )


def _unfused_adapters(evidence: ProfileEvidence) -> Iterator[Finding]:
    for module in evidence.facts.of_part("denoiser"):
        seconds = evidence.costs("denoise", "denoiser") * evidence.adapter_share
        if module.adapters and evidence.worth_saying(seconds):
            yield evidence.finding(
                "lora-unfused",
                "denoise",
                seconds,
                "lora-fuse",
                f"unfused LoRA ({', '.join(module.adapters)}) works beside the {module.name}'s own "
                f"weights in {module.adapted_layers} layers of every step, about "
                f"{evidence.part_of_call(seconds)}, measured in a call of its own; fuse it where "
                "adapters do not change between calls",
            )


def _checkers(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("postprocess", "safety_checker")
    row = evidence.row("postprocess")
    if row is not None and row.parts and evidence.worth_saying(seconds):
        yield evidence.finding(
            "safety-checker",
            "postprocess",
            seconds,
            None,
            f"safety checker or watermark take {evidence.part_of_call(seconds)}; where pictures "
            "are checked elsewhere, load with safety_checker=None or add_watermarker=False",
        )


def _upcast_vae(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("vae_decode")
    for module in evidence.facts.of_part("vae"):
        if module.upcasts and evidence.worth_saying(seconds):
            yield evidence.finding(
                "vae-upcast",
                "vae_decode",
                seconds,
                "vae-dtype",
                f"the {module.name} is cast to fp32 and back in every call, since it overflows in "
                f"fp16 (force_upcast; {evidence.part_of_call(seconds)}): in bfloat16 it needs no "
                "cast",
            )


HABIT_RULES: tuple[Rule, ...] = (
    _broken_picture,
    _callback,
    _more_decodes_than_pictures,
    _slices,
    _tiles,
    _upcast_vae,
    _old_attention,
    _text_in_fp32,
    _unfused_adapters,
    _checkers,
)
