"""Do the rules hold? Each case on the shadow device, and under torch's sync warnings on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from halftime.base.errors import UnknownDevice
from halftime.base.version import version
from halftime.records.audit import RuleCase, RulesCheck
from halftime.verbs.audit.cases import CASES, Case, case_inputs
from halftime.verbs.audit.mode import ShadowDevice


def check_rules(device_waits: Callable[[Case], bool] | None = None) -> RulesCheck:
    """What the rules say of every case beside what the device says.

    `device_waits` asks the real device by default; UnknownDevice where torch sees none.
    """
    if device_waits is None:
        if not torch.cuda.is_available():
            raise UnknownDevice(
                "--check-rules compares with torch.cuda.set_sync_debug_mode on a device, and "
                "torch sees none here. Run it on a machine with an NVIDIA GPU; everything else of "
                "`audit` needs none."
            )
        device_waits = device_answer
    cases = [
        RuleCase(
            name=case.name, torchs=case.torchs, rule=shadow_answer(case), device=device_waits(case)
        )
        for case in CASES
        if case.watched
    ]
    return RulesCheck(
        halftime=version(),
        torch=str(torch.__version__),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        cases=tuple(cases),
    )


def shadow_answer(case: Case) -> bool:
    """Whether the host waits, by the rules."""
    with ShadowDevice() as device:
        device.sites.recording = False
        inputs = case_inputs()
        device.sites.recording = True
        case.run(inputs)
        return bool(device.sites.as_records())


def device_answer(case: Case) -> bool:
    """Whether torch warns of a wait on the CUDA device that is there."""
    inputs = case_inputs()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case.run(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return any("synchronizing CUDA operation" in str(warning.message) for warning in caught)
