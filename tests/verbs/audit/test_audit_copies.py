"""Copies from pageable memory: they wait for all that was queued, and some are the audit's own."""

from __future__ import annotations

import pytest
import torch

from halftime.pipeline.load import load_or_take
from halftime.records import Workload
from halftime.records.audit import Audit
from halftime.report.audit import report_of
from halftime.report.markdown import markdown
from halftime.verbs.audit.run import audit_loaded, on_cpu
from tiny_pipelines import FAMILIES, PIPELINES

STEPS = 4


def audited(device: str, **own: object) -> Audit:
    """LCM draws noise in every step but the last."""
    tiny, workload = {**PIPELINES, **FAMILIES}["lcm"], Workload(steps=STEPS)
    arguments = {k: v for k, v in tiny.arguments(STEPS).items() if k != "generator"} | own
    loaded = load_or_take(tiny.build(), on_cpu(workload))
    return audit_loaded(loaded, workload, arguments, generator=device)  # type: ignore[arg-type]


def draws(audit: Audit) -> int:
    return sum(site.count for site in audit.sites if site.in_loop and site.direction == "h2d")


def test_the_audits_own_generator_is_said_and_can_be_left_out() -> None:
    on_host, on_device = audited("cpu"), audited("cuda")
    assert draws(on_host) == STEPS - 1
    [finding] = [f for f in on_host.findings if f.id == "noise-from-the-cpu"]
    assert finding.evidence["copies"] == STEPS - 1
    assert "--generator cuda" in finding.message
    assert draws(on_device) == 0
    assert "noise-from-the-cpu" not in [f.id for f in on_device.findings]
    # nothing else differs
    assert on_host.in_loop_total - on_device.in_loop_total == STEPS - 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_users_own_generator_is_counted_as_it_is(device: str) -> None:
    generator = torch.Generator("cpu").manual_seed(0)
    audit = audited(device, generator=generator)
    assert draws(audit) == STEPS - 1
    assert "noise-from-the-cpu" not in [f.id for f in audit.findings]


def test_a_pageable_copy_is_a_wait_for_all_that_was_queued() -> None:
    audit = audited("cpu")
    assert audit.in_loop_total == audit.in_loop_d2h + audit.in_loop_h2d
    assert not audit.capturable
    text = " ".join(markdown(report_of(audit)).split())
    assert (
        f"{audit.in_loop_total} times the host waits until the device has done all that was queued"
        in text
    )
    assert f"{audit.in_loop_h2d} for a copy to it from pageable memory" in text
