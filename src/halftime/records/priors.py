"""What is known of a fix before it is tried: how much faster its part becomes, and what trying
costs.

A prior decides only the order of what `profile` names and `tune` tries, and which rivals are worth
their time; what is kept is decided by measurement. The numbers are from this project's runs on CPUs
(benchmarks/results) and, for CUDA, from published ones; 1.0 means: nothing is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from halftime.records import Finding, Json, LedgerRow, Session
from halftime.records.recipe import Choice
from halftime.records.session import UNEXPLAINED


class Prior(NamedTuple):
    """Speedup of a part of the call on the CPU and on CUDA, and how much longer a first call takes,
    in seconds."""

    cpu: float
    cuda: float
    setup_seconds: float = 0.5


Where = tuple[str, str]  # stage and part of the ledger; part '' is the whole stage
DENOISER, SCHEDULER, BAR = (
    ("denoise", "denoiser"),
    ("denoise", "scheduler"),
    ("denoise", "progress_bar"),
)
GLUE, VAE, TEXT = ("denoise", "glue"), ("vae_decode", ""), ("encode_prompt", "")
# fix -> what it works on, and the prior there.
PRIORS: dict[str, dict[Where, Prior]] = {
    "progress-bar-off": {BAR: Prior(10.0, 10.0)},
    "known-device": {GLUE: Prior(1.2, 1.2), TEXT: Prior(1.1, 1.1)},
    "fused-qkv": {DENOISER: Prior(1.02, 1.03)},
    "vae-folded-upsample": {VAE: Prior(1.15, 1.1)},
    "int8-dynamic": {DENOISER: Prior(0.7, 1.2, 10.0)},
    "denoiser-channels-last": {DENOISER: Prior(1.1, 1.1)},
    "vae-channels-last": {VAE: Prior(1.2, 1.2)},
    "denoiser-dtype": {DENOISER: Prior(1.4, 2.0)},
    "vae-dtype": {VAE: Prior(1.9, 2.0)},
    "vae-slicing-off": {VAE: Prior(1.05, 1.1)},
    "attention-backend": {DENOISER: Prior(1.01, 1.1)},
    "denoiser-compile": {DENOISER: Prior(1.5, 1.3, 90.0)},
    "vae-compile": {VAE: Prior(1.6, 1.4, 40.0)},
    "loop-graph": {
        DENOISER: Prior(1.5, 1.1, 90.0),
        SCHEDULER: Prior(5.0, 5.0),
        GLUE: Prior(2.0, 5.0),
    },
    "schedule-table": {SCHEDULER: Prior(3.0, 5.0)},
    "set-begin-index": {SCHEDULER: Prior(1.3, 1.5)},
    "batch-prompts": {TEXT: Prior(1.3, 1.5)},
    "prompt-cache": {TEXT: Prior(20.0, 20.0)},
    "tiny-vae": {VAE: Prior(4.0, 6.0)},
    "step-cache": {DENOISER: Prior(1.4, 1.5)},
    "guidance-interval": {DENOISER: Prior(1.2, 1.1)},
}
# Runtimes: component -> where, with the prior there.
RUNTIMES: dict[str, dict[str, tuple[Where, Prior]]] = {
    "openvino": {
        "denoiser": (DENOISER, Prior(2.7, 1.0, 6.0)),
        "vae": (VAE, Prior(2.1, 1.0, 5.0)),
        "text_encoder": (TEXT, Prior(1.4, 1.0, 5.0)),
    },
    "onnxruntime": {
        "denoiser": (DENOISER, Prior(1.3, 1.0, 40.0)),
        "vae": (VAE, Prior(1.2, 1.0, 20.0)),
        "text_encoder": (TEXT, Prior(1.3, 1.0, 20.0)),
    },
}
_OPENVINO_LOOP = Prior(2.9, 1.0, 8.0)
_SLOW_SETUP = 5.0  # beyond this a component is converted or compiled


def effects(choice: Choice) -> dict[Where, Prior]:
    """What one fix is expected to do, by row of the ledger."""
    if choice.name in RUNTIMES:
        known = RUNTIMES[choice.name]
        return dict(known[part] for part in components_of(choice.settings) if part in known)
    found = dict(PRIORS.get(choice.name, {}))
    if choice.name == "loop-graph" and choice.settings.get("backend") == "openvino":
        found[DENOISER] = _OPENVINO_LOOP
    return found


def components_of(settings: Mapping[str, Json]) -> tuple[str, ...]:
    """The setting `components` as names."""
    value = settings.get("components")
    return tuple(str(part) for part in value) if isinstance(value, list) else ()


def setup_seconds(choice: Choice) -> float:
    """How long applying it for the first time is expected to take."""
    return max((prior.setup_seconds for prior in effects(choice).values()), default=0.5)


def predicted(session: Session, plan: tuple[Choice, ...], steps: int | None = None) -> float:
    """Speedup of the whole call that the ledger and the priors foretell for a plan: Amdahl's sum
    over its parts.

    Each row's seconds are divided by the speedups of the fixes that work on it; a row can at most
    vanish.
    """
    cuda = session.environment.device.startswith("cuda")
    speeds: dict[Where, float] = {}
    for choice in plan:
        for where, prior in effects(choice).items():
            speeds[where] = speeds.get(where, 1.0) * (prior.cuda if cuda else prior.cpu)
    fewer = _step_share(plan, steps or session.workload.steps)
    left = sum(
        _row_left(row, speeds) * (fewer if row.stage == "denoise" else 1.0)
        for row in session.ledger
    )
    return session.wall_seconds / max(left, 1e-9)


def with_predictions(session: Session) -> Session:
    """The session with the predicted gain of each finding's fix, the most promising first.

    What no prior is known of, and what has another ceiling than the steady call's, follows in its
    order.
    """
    found = [
        msgspec.structs.replace(each, predicted=_predicted(session, each))
        for each in session.findings
    ]
    return msgspec.structs.replace(
        session, findings=tuple(sorted(found, key=lambda each: -(each.predicted or 0.0)))
    )


def _predicted(session: Session, finding: Finding) -> float | None:
    if finding.fix is None or finding.fix not in PRIORS:
        return None
    return predicted(session, (Choice(name=finding.fix),))


def _row_left(row: LedgerRow, speeds: Mapping[Where, float]) -> float:
    if row.stage == UNEXPLAINED:
        return max(row.seconds, 0.0)
    if not row.parts:
        own = [
            speed
            for (stage, part), speed in speeds.items()
            if stage == row.stage and part in ("", "denoiser")
        ]
        return row.seconds / (own[0] if own else 1.0)
    whole = speeds.get((row.stage, ""), 1.0)
    return sum(
        part.seconds / (whole * speeds.get((row.stage, part.stage), 1.0)) for part in row.parts
    )


def _step_share(plan: tuple[Choice, ...], steps: int) -> float:
    """The share of the denoiser's evaluations that solver-steps leaves."""
    for choice in plan:
        wanted = choice.settings.get("steps")
        if choice.name == "solver-steps" and isinstance(wanted, int | float):
            twice = 2 if str(choice.settings.get("scheduler", "")).startswith("Heun") else 1
            return twice * wanted / steps
    return 1.0
