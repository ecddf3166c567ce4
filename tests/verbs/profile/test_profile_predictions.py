"""A prediction is never above its own ceiling, whatever the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.records import Environment, Finding, LedgerRow, Session, Workload
from halftime.records.finding import ceiling
from halftime.records.fixes import FIX_ROWS
from halftime.records.priors import with_predictions
from halftime.records.session import UNEXPLAINED

SECONDS = st.floats(0.0, 10.0)
PARTS = ("denoiser", "scheduler", "progress_bar", "glue")


def environment(device: str) -> Environment:
    return Environment(
        system="s",
        processor="p",
        cores=2,
        memory_bytes=1,
        threads=2,
        device=device,
        device_name="p",
    )


@st.composite
def ledgers(draw: st.DrawFn) -> tuple[LedgerRow, ...]:
    parts = tuple(
        LedgerRow(stage=part, seconds=draw(SECONDS), share=0.0)
        for part in PARTS[: draw(st.integers(0, 4))]
    )
    whole = sum(part.seconds for part in parts) if parts else draw(SECONDS)
    return (
        LedgerRow(stage="encode_prompt", seconds=draw(SECONDS), share=0.0),
        LedgerRow(stage="denoise", seconds=whole, share=0.0, parts=parts),
        LedgerRow(stage="vae_decode", seconds=draw(SECONDS), share=0.0),
        LedgerRow(stage=UNEXPLAINED, seconds=draw(st.floats(-0.01, 1.0)), share=0.0),
    )


@settings(max_examples=40)
@given(rows=ledgers(), device=st.sampled_from(["cpu", "cuda:0"]), share=st.floats(0.0, 1.0))
def test_no_prediction_is_above_its_ceiling(
    rows: tuple[LedgerRow, ...], device: str, share: float
) -> None:
    wall = max(sum(row.seconds for row in rows), 1e-3)
    costs = tuple(
        Finding(
            id=name,
            stage="denoise",
            message="",
            seconds=share * wall,
            ceiling=ceiling(share * wall, wall),
            fix=name,
        )
        for name in FIX_ROWS
    )
    session = Session(
        wall_seconds=wall,
        ledger=rows,
        findings=costs,
        environment=environment(device),
        workload=Workload(),
    )
    for finding in with_predictions(session).findings:
        if finding.predicted and finding.ceiling:
            assert finding.predicted <= finding.ceiling


def test_a_cheap_finding_with_a_large_fix_has_the_fixs_ceiling() -> None:
    glue, denoiser = (
        LedgerRow(stage="glue", seconds=0.2, share=0.02),
        LedgerRow(stage="denoiser", seconds=9.0, share=0.9),
    )
    rows = (
        LedgerRow(stage="denoise", seconds=9.2, share=0.92, parts=(denoiser, glue)),
        LedgerRow(stage="vae_decode", seconds=0.8, share=0.08),
    )
    cost = Finding(
        id="loop-glue", stage="denoise", message="", seconds=0.2, ceiling=10 / 9.8, fix="loop-graph"
    )
    session = Session(
        wall_seconds=10.0,
        ledger=rows,
        findings=(cost,),
        environment=environment("cpu"),
        workload=Workload(),
    )
    [finding] = with_predictions(session).findings
    assert finding.ceiling == pytest.approx(10 / 0.8)


def test_broken_first_and_a_cure_without_a_fix_by_its_ceiling() -> None:
    costs = (
        Finding(id="vae-fp32", stage="vae_decode", message="", seconds=2.0, fix="vae-dtype"),
        Finding(id="callback", stage="denoise", message="", seconds=5.0, ceiling=2.0),
        Finding(id="first-call", stage="call", message="", seconds=90.0, ceiling=10.0),
        Finding(id="broken-picture", stage="picture", message="", broken=True),
    )
    rows = (
        LedgerRow(stage="denoise", seconds=8.0, share=0.8),
        LedgerRow(stage="vae_decode", seconds=2.0, share=0.2),
    )
    session = Session(
        wall_seconds=10.0,
        ledger=rows,
        findings=costs,
        environment=environment("cpu"),
        workload=Workload(),
    )
    names = [finding.id for finding in with_predictions(session).findings]
    assert names == ["broken-picture", "callback", "vae-fp32", "first-call"]
