"""Situations that people are in without knowing it: a compilation without effect, a broken picture,
a VAE that works in pieces or too often, adapters that every step pays for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from halftime.base import units
from halftime.records import Finding
from halftime.verbs.profile.evidence import WORTH_SAYING, ProfileEvidence


def _compiled_in_vain(evidence: ProfileEvidence) -> Iterator[Finding]:
    for module in evidence.facts.modules:
        if not module.compiled_in_vain:
            continue
        seconds = evidence.costs("vae_decode", "vae")
        yield evidence.finding(
            "compiled-in-vain",
            "vae_decode",
            seconds,
            "vae-compile",
            f"torch.compile({module.name}) compiles its forward, and a pipeline calls decode: "
            f"nothing of it is compiled ({evidence.part_of_call(seconds)}). Write "
            f"pipe.{module.name}.decode = torch.compile(pipe.{module.name}.decode)",
        )


# fault -> what it most often comes from
_CAUSES = {
    "it is black": "values that overflowed become black; an SDXL VAE does in float16",
    "it holds values that are not numbers (NaN)": (
        "float16 overflowed, most often in the VAE; try bfloat16 or float32"
    ),
    "it has one colour only": "the latents have no content: too few steps, or a wrong solver",
    "it is pure noise": (
        "the solver does not fit the model, the steps are too few, or the weights are random"
    ),
}


def _broken_pictures(evidence: ProfileEvidence) -> Iterator[Finding]:
    """Costs the whole call: what is measured is a call that nobody can use."""
    faults = Counter(evidence.drawn.faults)
    if not faults:
        return
    fault, count = faults.most_common(1)[0]
    half = [m.name for m in evidence.facts.of_part("vae") if m.dtype == "float16"]
    here = f" (here the {half[0]} is in float16)" if half else ""
    yield evidence.finding(
        "broken-picture",
        "call",
        evidence.wall_seconds,
        None,
        f"{count} of {evidence.drawn.count} pictures that this call drew are broken: {fault}. "
        f"Most likely: {_CAUSES[fault]}{here}",
    )


def _repeated_decoding(evidence: ProfileEvidence) -> Iterator[Finding]:
    row, pictures = evidence.row("vae_decode"), evidence.drawn.count
    if row is None or not 0 < pictures < row.calls:
        return
    seconds = row.seconds * (1 - pictures / row.calls)
    if seconds >= WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "decoded-too-often",
            "vae_decode",
            seconds,
            None,
            f"the VAE decodes {row.calls} times for {pictures} "
            f"picture{'s' if pictures > 1 else ''}: {evidence.part_of_call(seconds)} are "
            "previews. Decode every k-th step, or previews with a tiny VAE",
        )


def _decoding_in_pieces(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("vae_decode", "vae")
    for module in evidence.facts.of_part("vae"):
        slices = module.slicing and evidence.drawn.count > 1
        tiles = 0 < module.tile_side < evidence.drawn.longer_side
        if (slices or tiles) and seconds >= WORTH_SAYING * evidence.wall_seconds:
            pieces = f"tiles of {module.tile_side} pixels" if tiles else "slices, one a picture"
            yield evidence.finding(
                "vae-in-pieces",
                "vae_decode",
                seconds,
                "vae-slicing-off",
                f"the {module.name} decodes in {pieces} ({evidence.part_of_call(seconds)}): that "
                "saves memory and costs time; where the memory is there, take it off",
            )


def _unfused_adapters(evidence: ProfileEvidence) -> Iterator[Finding]:
    for module in evidence.facts.of_part("denoiser"):
        seconds = evidence.costs("denoise", "denoiser")
        if module.unfused_adapters:
            names = ", ".join(module.unfused_adapters)
            yield evidence.finding(
                "lora-unfused",
                "denoise",
                seconds * module.adapted_share,
                None,
                f"the {module.name} computes adapters ({names}) beside its own weights in every "
                f"step, {units.share(module.adapted_share)} of its weights and some small "
                "operations a layer: pipe.fuse_lora() adds them to the weights once",
            )


def _offloading(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("offload")
    if seconds >= WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "offloading",
            "offload",
            seconds,
            None,
            f"moving weights between the device and the host takes "
            f"{evidence.part_of_call(seconds)}: keep what fits on the device, or move groups in a "
            "stream of their own (enable_group_offload(use_stream=True))",
        )


def _checking(evidence: ProfileEvidence) -> Iterator[Finding]:
    seconds = evidence.costs("safety_checker")
    if seconds >= WORTH_SAYING * evidence.wall_seconds:
        yield evidence.finding(
            "safety-checker",
            "safety_checker",
            seconds,
            None,
            f"checker and watermark take {evidence.part_of_call(seconds)}; a service that checks "
            "elsewhere can load the pipeline with safety_checker=None or add_watermarker=False",
        )


RULES: tuple[Callable[[ProfileEvidence], Iterator[Finding]], ...] = (
    _broken_pictures,
    _compiled_in_vain,
    _repeated_decoding,
    _decoding_in_pieces,
    _unfused_adapters,
    _offloading,
    _checking,
)
