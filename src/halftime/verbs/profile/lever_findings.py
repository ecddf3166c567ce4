"""Rules about what is done for nothing or could be done faster: guidance that changes nothing,
compiled modules that nobody calls, a transformer's levers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from halftime.base import units
from halftime.records import Finding
from halftime.records.fixes import FixName
from halftime.verbs.profile.evidence import FindingName, ProfileEvidence, Rule
from halftime.verbs.profile.facts import ModuleFacts

FIXES_OF_COMPILATION: dict[str, FixName] = {"denoiser": "denoiser-compile", "vae": "vae-compile"}
_TRANSFORMER_SHARE = 0.2  # of the call, from which its levers are worth naming
_FEWEST_STEPS = 8  # fewer leave a cache nothing to reuse
_LARGE = 10**9  # parameters, from which fewer bits pay on a GPU


def _guidance_for_nothing(evidence: ProfileEvidence) -> Iterator[Finding]:
    guidance = evidence.guidance
    if guidance is None or guidance.evaluations != 2:
        return
    without_weight = guidance.scale == 1.0
    seconds = evidence.costs("denoise", "denoiser") / 2
    if not (without_weight or guidance.alike) or not evidence.worth_saying(seconds):
        return
    why = (
        f"at {guidance.name}=1 the unguided half is multiplied by nothing"
        if without_weight
        else "both halves give the same, bit for bit: the negative prompt says what the prompt says"
    )
    cure = (
        "leave the negative prompt out, and let do_classifier_free_guidance be false"
        if without_weight
        else f"leave it out, with {guidance.name or 'guidance_scale'}=1"
    )
    yield evidence.finding(
        "guidance-for-nothing",
        "denoise",
        seconds,
        None,
        f"the denoiser is evaluated twice for each picture and step, and {why} "
        f"({evidence.part_of_call(seconds)}): {cure}",
    )


def _compiled_and_not_called(evidence: ProfileEvidence) -> Iterator[Finding]:
    for module in evidence.facts.modules:
        stage = {"denoiser": "denoise", "vae": "vae_decode"}.get(module.part, "encode_prompt")
        seconds = evidence.costs(stage, module.part)
        if module.compiled_elsewhere and evidence.worth_saying(seconds):
            yield evidence.finding(
                "compiled-not-called",
                stage,
                seconds,
                FIXES_OF_COMPILATION.get(module.part),
                f"a compiled {module.name} exists, and the pipeline calls the plain one "
                f"({evidence.part_of_call(seconds)}): torch.compile gives a new object, which was "
                "never assigned, or was replaced (by from_pipe, adapters, or unwrapping). "
                f"pipeline.{module.name}.compile() stays with the module wherever it goes",
            )


class _Lever(NamedTuple):
    name: FindingName
    fix: FixName
    words: str
    applies: bool


def _transformer_levers(evidence: ProfileEvidence) -> Iterator[Finding]:
    """What people run fast in 2026: attention, step cache, fewer bits; compilation is said of every
    denoiser. Their predictions come from the priors."""
    seconds = evidence.costs("denoise", "denoiser")
    modules = evidence.facts.of_part("denoiser")
    if not modules or seconds < _TRANSFORMER_SHARE * evidence.wall_seconds:
        return
    if not all(module.transformer for module in modules):
        return
    for lever in _levers(evidence, modules):
        if lever.applies and not evidence.hopeless(lever.fix):
            yield evidence.finding(
                lever.name,
                "denoise",
                seconds,
                lever.fix,
                f"{lever.words} ({evidence.part_of_call(seconds)} in it); `halftime tune` measures "
                "what it brings and costs here",
            )


def _levers(evidence: ProfileEvidence, modules: tuple[ModuleFacts, ...]) -> tuple[_Lever, ...]:
    names = " and ".join(module.name for module in modules)
    on_gpu = evidence.facts.device == "cuda"
    plain = all(module.attention_backend in ("", "native") for module in modules)
    large = sum(module.parameters for module in modules) >= _LARGE
    return (
        _Lever(
            "transformer-cache",
            "step-cache",
            f"the {names} computes each of {evidence.steps} steps anew, where neighbours are alike",
            evidence.facts.cachable
            and evidence.steps >= _FEWEST_STEPS
            and not any(module.cached for module in modules),
        ),
        _Lever(
            "transformer-attention",
            "attention-backend",
            f"the {names} attends through torch's default kernel",
            on_gpu and plain,
        ),
        _Lever(
            "transformer-quantise",
            "denoiser-quantize",
            f"the {names} holds {units.count(sum(m.parameters for m in modules))} parameters in 16 "
            "bits or more",
            on_gpu and large and not any(module.quantised for module in modules),
        ),
    )


LEVER_RULES: tuple[Rule, ...] = (
    _guidance_for_nothing,
    _compiled_and_not_called,
    _transformer_levers,
)
