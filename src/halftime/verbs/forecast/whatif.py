"""What each fix would save: the same call with one thing changed, and with all of them stacked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from halftime.records.fixes import FixName
from halftime.records.forecast import FixForecast
from halftime.verbs.forecast.architectures import ARCHITECTURES
from halftime.verbs.forecast.host import INDEX_SHARE, SCHEDULER_SHARE
from halftime.verbs.forecast.predict import (
    Z90,
    ComponentRun,
    Effects,
    Machine,
    StageWork,
    gradient,
    operations_of,
    total_seconds,
)
from halftime.verbs.forecast.quantised import runs_on
from halftime.verbs.forecast.scenario import Scenario

Works = tuple[StageWork, ...]


class WhatIfFix(NamedTuple):
    """A fix as a change of the work.

    `apply` gives the changed work, or None where there is nothing to change. `doubt` is how
    uncertain its effect is, as a share of the logarithm of the ratio, besides the machine's own.
    `stacks` is False where it changes the picture more than a precision does, or what the user
    asked for.
    """

    name: FixName
    apply: Callable[[Scenario, Works], Works | None]
    doubt: float
    stacks: bool
    note: str
    kind: str = ""  # of a fix that has kinds
    quantised: str = ""  # the format of `QUANTISED` that the GPU has to multiply in


def _runs(works: Works, stage: str, change: Callable[[ComponentRun], ComponentRun]) -> Works | None:
    changed = tuple(
        replace(work, runs=tuple(change(run) for run in work.runs)) if work.stage == stage else work
        for work in works
    )
    return None if changed == works else changed


def _on(
    stage: str, change: Callable[[ComponentRun], ComponentRun]
) -> Callable[[Scenario, Works], Works | None]:
    return lambda _, works: _runs(works, stage, change)


def _halved(run: ComponentRun) -> ComponentRun:
    if run.dtype not in ("fp32", "tf32"):
        return run
    return replace(run, dtype="bf16", traced=replace(run.traced, element=2))


def _half_for(scenario: Scenario) -> str:
    return "fp16" if scenario.choice.dtype == "fp16" else "bf16"


def _vae_dtype(scenario: Scenario, works: Works) -> Works | None:
    return _runs(
        works,
        "vae_decode",
        lambda run: (
            replace(_halved(run), dtype=_half_for(scenario))
            if run.dtype in ("fp32", "tf32")
            else run
        ),
    )


def _channels_last(run: ComponentRun) -> ComponentRun:
    # A compiled module has chosen its layouts, and a network without convolutions has none to
    # choose.
    convolves = any(group.kind == "conv" for group in operations_of(run)[0].eager)
    return replace(run, channels_last=True) if convolves and not run.compiled else run


def _compile(run: ComponentRun) -> ComponentRun:
    return replace(run, compiled=True)


def _tiny(scenario: Scenario, works: Works) -> Works | None:
    vae = next((c for c in scenario.model.components if c.role == "vae"), None)
    channels = vae.config.get("latent_channels") if vae else None
    name = {4: "taesd", 16: "taef1"}.get(channels) if isinstance(channels, int) else None
    if vae is None or vae.class_name != "AutoencoderKL" or name is None:
        return None
    tiny = ARCHITECTURES[name]

    def change(run: ComponentRun) -> ComponentRun:
        traced = replace(run.traced, class_name=tiny.class_name, config=tiny.config, element=2)
        return replace(run, traced=traced, dtype=_half_for(scenario))

    return _runs(works, "vae_decode", change)


def _prompt_cache(_: Scenario, works: Works) -> Works | None:
    return (
        tuple(work for work in works if work.stage != "encode_prompt") if len(works) > 1 else None
    )


def _batch_prompts(run: ComponentRun) -> ComponentRun:
    if run.times < 2:
        return run
    geometry = replace(run.traced.geometry, batch=2 * run.traced.geometry.batch)
    return replace(run, times=run.times / 2, traced=replace(run.traced, geometry=geometry))


def _fused_qkv(run: ComponentRun) -> ComponentRun:
    trace, _ = operations_of(run)
    fused = sum(group.count for group in trace.eager if group.kind == "attention")
    written_out = sum(group.count for group in trace.eager if group.kind == "bmm") / 2
    return replace(run, saved_operations=run.saved_operations + 2.0 * (fused + written_out))


def _fused_attention(run: ComponentRun) -> ComponentRun:
    return replace(run, traced=replace(run.traced, attention="sdpa"))


def _products_in(dtype: str) -> Callable[[ComponentRun], ComponentRun]:
    """Compiled, since eager quantised products are slower than 16-bit ones."""

    def change(run: ComponentRun) -> ComponentRun:
        if run.dtype not in ("bf16", "fp16"):
            return run
        return replace(run, dtype=dtype, compiled=True)

    return change


CHANNELS_LAST = "no measured row behind it; a compiled module is not forecast (1.28 was measured)"
GUIDED_SHARE = 0.6  # of the steps, in guidance-interval
REUSED_SHARE = 0.4  # of the steps, in step-cache: the denoiser's previous output is used again
FEWER_STEPS = 0.8


def _guidance_interval(scenario: Scenario, works: Works) -> Works | None:
    if not scenario.choice.guidance:
        return None

    def split(work: StageWork) -> StageWork:
        if work.stage != "denoise":
            return work
        runs: list[ComponentRun] = []
        for run in work.runs:
            alone = replace(
                run.traced,
                geometry=replace(run.traced.geometry, batch=run.traced.geometry.batch // 2),
            )
            runs += [
                replace(run, times=run.times * GUIDED_SHARE),
                replace(run, times=run.times * (1 - GUIDED_SHARE), traced=alone),
            ]
        return replace(work, runs=tuple(runs))

    return tuple(split(work) for work in works)


def _fewer(share: float) -> Callable[[ComponentRun], ComponentRun]:
    return lambda run: replace(run, times=run.times * share)


def _step_work(share: float) -> Callable[[ComponentRun], ComponentRun]:
    return lambda run: replace(run, step_work=run.step_work * share)


def _captured(run: ComponentRun) -> ComponentRun:
    return replace(run, captured=True)


def _nothing(_: Scenario, works: Works) -> Works | None:
    return works


# In the order in which they stack.
FIXES: tuple[WhatIfFix, ...] = (
    WhatIfFix(
        "text-warmup",
        _nothing,
        0.0,
        True,
        "shortens the first call only; this forecast is of a warm one",
    ),
    WhatIfFix("denoiser-dtype", _on("denoise", _halved), 0.3, True, "fp32 to bf16"),
    WhatIfFix("denoiser-channels-last", _on("denoise", _channels_last), 0.5, True, CHANNELS_LAST),
    WhatIfFix(
        "attention-backend",
        _on("denoise", _fused_attention),
        0.3,
        True,
        "written-out attention to a fused kernel",
    ),
    WhatIfFix(
        "fused-qkv", _on("denoise", _fused_qkv), 0.5, True, "three projections in one kernel"
    ),
    WhatIfFix(
        "denoiser-compile", _on("denoise", _compile), 0.35, True, "kernel fusion and CUDA graphs"
    ),
    WhatIfFix("vae-dtype", _vae_dtype, 0.3, True, "fp32 to 16 bit"),
    WhatIfFix("vae-channels-last", _on("vae_decode", _channels_last), 0.5, True, CHANNELS_LAST),
    WhatIfFix(
        "vae-compile", _on("vae_decode", _compile), 0.4, True, "kernel fusion and CUDA graphs"
    ),
    WhatIfFix(
        "batch-prompts",
        _on("encode_prompt", _batch_prompts),
        0.3,
        True,
        "prompt and negative prompt in one batch",
    ),
    WhatIfFix(
        "set-begin-index",
        _on("denoise", _step_work(1 - INDEX_SHARE)),
        0.5,
        True,
        "no search, no sync at the start; part of schedule-table",
    ),
    WhatIfFix(
        "schedule-table",
        _on("denoise", _step_work(1 - SCHEDULER_SHARE)),
        0.5,
        True,
        "the scheduler as one table",
    ),
    WhatIfFix(
        "loop-graph", _on("denoise", _captured), 0.3, True, "the whole loop as one CUDA graph"
    ),
    WhatIfFix("prompt-cache", _prompt_cache, 0.0, False, "for a prompt seen before"),
    WhatIfFix("tiny-vae", _tiny, 0.15, False, "lossy: for previews"),
    *(
        WhatIfFix(
            "denoiser-quantize",
            _on("denoise", _products_in(dtype)),
            doubt,
            False,
            f"compiled, with matrix products in {dtype}",
            kind,
            dtype,
        )
        for dtype, kind, doubt in (
            ("int8", "int8-dynamic", 0.3),
            ("fp8", "fp8-dynamic", 0.3),
            ("fp4", "nvfp4-dynamic", 0.6),  # a prior alone
        )
    ),
    WhatIfFix(
        "guidance-interval",
        _guidance_interval,
        0.1,
        False,
        f"guidance in {GUIDED_SHARE:.0%} of the steps",
    ),
    WhatIfFix(
        "step-cache",
        _on("denoise", _fewer(1 - REUSED_SHARE)),
        0.15,
        False,
        f"{REUSED_SHARE:.0%} of the steps reused: arithmetic alone, no measurement behind it",
    ),
    WhatIfFix(
        "solver-steps",
        _on("denoise", _fewer(FEWER_STEPS)),
        0.05,
        False,
        f"{FEWER_STEPS:.0%} of the steps",
    ),
)


def fixes_of(scenario: Scenario, machine: Machine) -> tuple[FixForecast, ...]:
    """Every fix that has something to change, the largest gain first: alone, and stacked on those
    above it."""
    gains = []
    for fix in FIXES:
        able = not fix.quantised or runs_on(machine.gpu, fix.quantised)
        changed = fix.apply(scenario, scenario.works) if able else None
        if changed is not None:
            gains.append((fix, *_ratio(scenario.works, changed, machine, fix.doubt)))
    gains.sort(key=lambda row: -row[1])
    out: list[FixForecast] = []
    stacked = scenario.works
    for fix, ratio, low, high in gains:
        together = None
        if fix.stacks:
            stacked = fix.apply(scenario, stacked) or stacked
            together = _total(scenario.works, machine) / _total(stacked, machine)
        out.append(
            FixForecast(
                fix=fix.name,
                kind=fix.kind,
                ratio=ratio,
                low=low,
                high=high,
                stacked_ratio=together,
                note=fix.note,
            )
        )
    return tuple(out)


def _total(works: Works, machine: Machine, effects: Effects | None = None) -> float:
    return total_seconds(works, machine.gpu, machine.constants, effects or machine.effects)


def _ratio(
    before: Works, after: Works, machine: Machine, doubt: float
) -> tuple[float, float, float]:
    """Seconds before / seconds after, with the band.

    The machine's uncertainty mostly cancels; the fix's does not.
    """

    def ratio_at(effects: Effects) -> float:
        return _total(before, machine, effects) / _total(after, machine, effects)

    ratio = ratio_at(machine.effects)
    slope = gradient(ratio_at, machine.effects)
    deviation = math.sqrt(
        float(slope @ machine.covariance @ slope) + (doubt * math.log(ratio)) ** 2
    )
    factor = math.exp(Z90 * deviation)
    return ratio, ratio / factor, ratio * factor
