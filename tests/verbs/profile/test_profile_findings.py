"""Findings and doubts: each rule speaks when it should, with Amdahl's ceiling, and is silent
otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

import planted_findings
from halftime.records import CompileReport, Environment, LedgerRow, Recompile, Session, Workload
from halftime.records.finding import ceiling
from halftime.records.priors import with_predictions
from halftime.verbs.profile.compilation import plain_words
from halftime.verbs.profile.device_probe import Busy, HostEvent, by_stage, with_device
from halftime.verbs.profile.doubts import doubts
from halftime.verbs.profile.evidence import ProfileEvidence
from halftime.verbs.profile.facts import ModuleFacts
from halftime.verbs.profile.findings import findings
from planted_findings import FACTS, GOOD, ids, row

MODULES = FACTS.modules
# The founding story's shares, with nothing to complain of.
LEDGER = (
    row("encode_prompt", 0.012, first=0.012),
    row(
        "denoise",
        3.2,
        row("denoiser", 3.15),
        row("scheduler", 0.03),
        row("progress_bar", 0.01),
        row("glue", 0.01),
    ),
    row("vae_decode", 0.89),
    row("postprocess", 0.02),
    row("unexplained", 0.01),
)
CALM = replace(planted_findings.CALM, wall_seconds=4.2, first_call_seconds=4.2, ledger=LEDGER)


def with_row(stage: str, changed: LedgerRow) -> ProfileEvidence:
    return replace(CALM, ledger=tuple(changed if each.stage == stage else each for each in LEDGER))


def test_nothing_to_say_about_a_good_call() -> None:
    assert findings(CALM) == ()


@pytest.mark.parametrize(
    ("change", "expected", "fix"),
    [
        ({"dtype": "float32"}, "vae-fp32", "vae-dtype"),
        ({"dtype": "float16"}, "vae-fp16", "vae-dtype"),
        ({"channels_last": False}, "vae-contiguous", "vae-channels-last"),
        ({"compiled": False}, "vae-eager", "vae-compile"),
        ({"dtype": "float32", "channels_last": False, "compiled": False}, "vae-fp32", "vae-dtype"),
    ],
)
def test_a_heavy_component_names_its_next_fix(
    change: dict[str, object], expected: str, fix: str
) -> None:
    vae = ModuleFacts("vae", "vae", **{**GOOD, **change})
    evidence = replace(CALM, facts=replace(FACTS, modules=(MODULES[0], vae)))
    [finding] = findings(evidence)
    assert (finding.id, finding.fix, finding.stage) == (expected, fix, "vae_decode")
    assert finding.ceiling == pytest.approx(4.2 / (4.2 - 0.89))


def test_fp32_is_no_fault_where_bf16_is_not_faster() -> None:
    vae = ModuleFacts("vae", "vae", **{**GOOD, "dtype": "float32"})
    assert ids(replace(CALM, facts=replace(FACTS, modules=(vae,), fast_bfloat16=False))) == []


@pytest.mark.parametrize(("overflows", "expected"), [(False, ["vae-fp32"]), (True, [])])
def test_on_a_card_that_is_fast_in_fp16_alone_an_fp32_vae_is_a_fault_unless_it_overflows(
    overflows: bool, expected: list[str]
) -> None:
    """T4 and V100: nothing there is faster in bf16."""
    vae = ModuleFacts("vae", "vae", **{**GOOD, "dtype": "float32", "overflows": overflows})
    t4 = replace(FACTS, modules=(vae,), fast_bfloat16=False, fast_float16=True)
    evidence = replace(CALM, facts=t4)
    assert ids(evidence) == expected
    assert all("faster in fp16" in finding.message for finding in findings(evidence))


def test_a_cheap_component_is_not_worth_a_word() -> None:
    vae = ModuleFacts("vae", "vae", **{**GOOD, "dtype": "float32"})
    cheap = with_row("vae_decode", row("vae_decode", 0.01))
    assert ids(replace(cheap, facts=replace(FACTS, modules=(vae,)))) == []


def test_the_text_encoders_first_call() -> None:
    evidence = replace(
        with_row("encode_prompt", row("encode_prompt", 0.012, first=0.34)), first_call_seconds=4.53
    )
    [finding] = findings(evidence)
    assert (finding.id, finding.fix) == ("text-first-call", "text-warmup")
    assert "28x" in finding.message
    assert finding.ceiling == pytest.approx(4.53 / (4.53 - 0.328))


def test_glue_scheduler_prompt_and_postprocess() -> None:
    parts = (
        row("denoiser", 2.0),
        row("scheduler", 0.2),
        row("progress_bar", 0.3),
        row("glue", 0.1),
    )
    assert ids(with_row("denoise", row("denoise", 2.6, *parts))) == [
        "loop-glue",
        "scheduler-step",
    ]
    [finding] = findings(with_row("encode_prompt", row("encode_prompt", 0.5)))
    assert (finding.id, finding.fix) == ("prompt-encoding", "prompt-cache")
    assert ids(with_row("postprocess", row("postprocess", 0.5))) == ["postprocess"]


def test_what_only_a_gpu_shows() -> None:
    found = findings(
        with_row("denoise", row("denoise", 3.2, host_blocked_seconds=0.27, launch_gap_seconds=1.0))
    )
    assert [(finding.id, finding.fix) for finding in found] == [
        ("launch-bound", "loop-graph"),
        ("host-waits", "schedule-table"),
    ]


def test_compilation_and_a_busy_machine() -> None:
    report = CompileReport(
        compiled=("unet",),
        after_warmup=2,
        recompiles=(Recompile(where="x.py:1 forward", reason="the size of x changed"),),
        graph_breaks=(Recompile(where="", reason="call to print", count=3),),
    )
    busy = replace(CALM, compilation=report, load_average=3.0, facts=replace(FACTS, wait_policy=""))
    assert Counter(ids(busy)) == Counter(["recompiles", "graph-breaks", "openmp-spins"])


def test_costliest_first() -> None:
    slow = {**GOOD, "dtype": "float32"}
    modules = (ModuleFacts("vae", "vae", **slow), ModuleFacts("unet", "denoiser", **slow))
    assert ids(replace(CALM, facts=replace(FACTS, modules=modules))) == [
        "denoiser-fp32",
        "vae-fp32",
    ]


def test_amdahls_ceiling() -> None:
    assert ceiling(1, 2) == 2
    assert ceiling(0, 2) == 1
    assert ceiling(2, 2) is None


CALM_WALLS = [1.0, 1.01, 0.99, 1.0, 1.0, 1.01]


@pytest.mark.parametrize(
    ("walls", "load", "share", "expected"),
    [
        (CALM_WALLS, 0.1, 0.001, None),
        ([1.0], 0.1, 0.001, "only 1 steady runs"),
        ([1.0, 1.5, 2.0, 1.2], 0.1, 0.001, "differ widely"),
        ([1.0, 1.0, 1.0, 1.2, 1.2, 1.2], 0.1, 0.001, "later half"),
        (CALM_WALLS, 1.9, 0.001, "other work was running"),
        (CALM_WALLS, 0.1, 0.05, "5.0 % of the wall clock is unexplained"),
    ],
)
def test_doubts(walls: list[float], load: float, share: float, expected: str | None) -> None:
    found = doubts(walls, [LedgerRow(stage="unexplained", seconds=share, share=share)], place(load))
    assert any(expected in doubt for doubt in found) if expected else found == ()


def place(load: float, **settings: str) -> Environment:
    return Environment(
        system="s",
        processor="p",
        cores=2,
        memory_bytes=1,
        threads=2,
        device="cpu",
        device_name="p",
        load_average=load,
        settings=settings,
    )


def test_nobody_is_told_to_set_what_is_set() -> None:
    [told] = doubts(CALM_WALLS, [], place(1.9))
    assert told.endswith("run again on a quiet machine, or with OMP_WAIT_POLICY=PASSIVE.")
    [told] = doubts(CALM_WALLS, [], place(1.9, OMP_WAIT_POLICY="passive"))
    assert told.endswith("run again on a quiet machine.")


def test_float16_is_no_fault_where_the_processor_computes_in_it() -> None:
    vae = ModuleFacts("vae", "vae", **{**GOOD, "dtype": "float16"})
    assert ids(replace(CALM, facts=replace(FACTS, modules=(vae,), slow_float16=False))) == []


def test_findings_come_with_what_their_fix_should_bring_the_most_promising_first() -> None:
    modules = (replace(MODULES[0], compiled=False), replace(MODULES[1], dtype="float32"))
    found = findings(replace(CALM, facts=replace(FACTS, modules=modules)))
    session = Session(
        wall_seconds=4.2, ledger=LEDGER, findings=found, environment=place(0.1), workload=Workload()
    )
    first, second = with_predictions(session).findings
    assert (first.fix, second.fix) == ("denoiser-compile", "vae-dtype")
    assert first.predicted == pytest.approx(4.2 / (4.2 - 3.15 + 3.15 / 1.5))
    assert second.predicted == pytest.approx(4.2 / (4.2 - 0.89 + 0.89 / 1.9))
    assert first.predicted < (first.ceiling or 0.0)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "0/0: tensor 'x' size mismatch at index 2. expected 16, actual 24",
            "the size of x changed from 16 to 24",
        ),
        (
            "- 1/0: tensor 'L['h']' dtype mismatch. expected Float, actual BFloat16",
            "the dtype of h changed from Float",
        ),
        (
            "0/1: L['steps'] == 30                 # for i in range(steps)",
            "the value of steps is no longer 30",
        ),
        ("0/4: GLOBAL_STATE changed: grad_mode ", "the grad mode changed"),
        ("something new", "something new"),
        ("", "no reason given"),
    ],
)
def test_recompile_reasons_in_plain_words(reason: str, words: str) -> None:
    assert words in plain_words(reason)


def test_device_and_blocked_time_by_stage_from_recorded_events() -> None:
    events = [
        HostEvent("halftime/encode_prompt", 0, 1),
        HostEvent("aten::mm", 0.2, 0.3, device_seconds=0.5),
        HostEvent("halftime/denoise/denoiser#0", 2, 4),
        HostEvent("aten::conv", 2.5, 2.6, device_seconds=1.5),
        HostEvent("cudaStreamSynchronize", 3.0, 3.75),
        HostEvent("cudaDeviceSynchronize", 9, 10),
    ]
    busy = by_stage(events)
    assert busy == {"encode_prompt": Busy(0.5, 0.0), "denoise": Busy(1.5, 0.75)}
    rows = with_device([row("denoise", 2.0), row("vae_decode", 1.0)], busy)
    assert (rows[0].host_blocked_seconds, rows[0].launch_gap_seconds) == (0.75, 0.5)
    assert rows[1].launch_gap_seconds is None


def test_a_range_inside_a_range_owns_what_it_holds() -> None:
    events = [
        HostEvent("halftime/prepare", 0, 10),
        HostEvent("halftime/vae_encode/vae", 2, 4),
        HostEvent("k", 3, 3.1, 1.0),
        HostEvent("k", 5, 5.1, 2.0),
    ]
    assert by_stage(events) == {"vae_encode": Busy(1.0, 0.0), "prepare": Busy(2.0, 0.0)}
