"""`forecast calibrate`: what a measured session says about one machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from halftime.base.errors import BadInput, UnknownDevice
from halftime.base.store import read_json
from halftime.records import Session
from halftime.records.forecast import Calibration, Observation
from halftime.records.gpus import Gpu, find_gpu, gpu_named
from halftime.verbs.forecast.calibrate import calibrated
from halftime.verbs.forecast.constants import Constants, shipped
from halftime.verbs.forecast.models import resolve
from halftime.verbs.forecast.predict import Effects, Machine, StageWork, total_seconds, uncalibrated
from halftime.verbs.forecast.scenario import ForecastSettings, Scenario, scenario_of

STAGES = ("encode_prompt", "denoise", "vae_decode")
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def calibrate(
    session: Session | Path | str,
    *,
    model: str | None = None,
    gpu: str | None = None,
    dtype: str | None = None,
    constants: Constants | None = None,
) -> Calibration:
    """Factors of the machine that `session` was measured on: its rates, its bandwidth, its host.

    `model`, `gpu` and `dtype` stand in where the session does not say. Raises UnknownDevice where
    it ran on no GPU of the table, BadInput where it has no stage that the forecast knows.
    """
    measured = session if isinstance(session, Session) else read_json(session, Session)
    machine = uncalibrated(_gpu(measured, gpu), constants or shipped())
    scenario = scenario_of(resolve(model or measured.model or None), _settings(measured, dtype))
    works = {work.stage: work for work in scenario.works if work.stage in STAGES}
    measured_stages = [
        (row.stage, row.seconds)
        for row in measured.ledger
        if row.stage in works and row.seconds > 0
    ]
    if not measured_stages:
        raise BadInput(
            f"the session has none of the stages {', '.join(STAGES)} that "
            f"{scenario.model.name} has."
        )
    after = calibrated(
        machine,
        [(_seconds(works[stage], machine), seconds) for stage, seconds in measured_stages],
        _source(measured, scenario),
    )
    return Calibration(
        gpu=machine.gpu.name,
        compute=after.effects.compute,
        memory=after.effects.memory,
        host=after.effects.host,
        covariance=tuple((float(a), float(b), float(c)) for a, b, c in after.covariance),
        source=after.calibrated_on,
        observations=tuple(
            _observation(stage, seconds, works[stage], machine, after)
            for stage, seconds in measured_stages
        ),
    )


def _gpu(session: Session, override: str | None) -> Gpu:
    if override:
        return gpu_named(override)
    name = re.sub(r"^NVIDIA\s+", "", session.environment.device_name)
    gpu = find_gpu(name) or find_gpu(re.sub(r"-\d+GB.*$", "", name))
    if gpu is None:
        raise UnknownDevice(
            f"the session was measured on {session.environment.device_name!r}, which is not a GPU "
            "in the table. Calibrate with a session of a GPU, or name the GPU with --gpu."
        )
    return gpu


def _settings(session: Session, dtype: str | None) -> ForecastSettings:
    work = session.workload
    compiled = session.compilation.compiled if session.compilation else ()
    named = dtype or (_DTYPES.get(work.dtype, work.dtype) if work.dtype else None)
    return ForecastSettings(
        width=work.width,
        height=work.height,
        steps=work.steps,
        batch=len(work.prompts) * work.images_per_prompt,
        dtype=named,
        guidance=None if work.guidance is None else work.guidance > 1,
        compiled=any(name in ("unet", "transformer") for name in compiled),
    )


def _source(session: Session, scenario: Scenario) -> str:
    s = scenario.choice
    when = f", {session.created[:10]}" if session.created else ""
    return (
        f"a session of {scenario.model.name}, {s.width}x{s.height}, {s.steps} steps, "
        f"{s.dtype}{when}"
    )


def _seconds(work: StageWork, machine: Machine) -> Callable[[Effects], float]:
    return lambda effects: total_seconds((work,), machine.gpu, machine.constants, effects)


def _observation(
    stage: str, seconds: float, work: StageWork, before: Machine, after: Machine
) -> Observation:
    return Observation(
        stage=stage,
        measured_seconds=seconds,
        before_seconds=_seconds(work, before)(before.effects),
        after_seconds=_seconds(work, after)(after.effects),
    )
