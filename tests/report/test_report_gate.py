"""What a gate's report says, and what CI gets of it."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from halftime.records import Workload
from halftime.records.gate import Gate, GateCounter, GateDifference, GateSide, StageShift
from halftime.records.verdict import Verdict
from halftime.report.gate import github_annotations, junit, report_of, summary_of
from halftime.report.markdown import markdown, table
from halftime.report.model import Column, Table

GATE = Gate(
    verdict="slower",
    speed="slower",
    reasons=("slower, wrong in at most 1 % of runs: vae_decode +41 ms [38, 45]",),
    base=GateSide(label="main (0123456789)", kind="revision"),
    candidate=GateSide(label="here", kind="here"),
    model="./model",
    ratio=1.21,
    low=1.19,
    high=1.22,
    wall_seconds=0.2,
    margin=0.03,
    alpha=0.01,
    budget_seconds=300.0,
    spent_seconds=80.0,
    stages=(
        StageShift(
            stage="vae_decode",
            base_seconds=0.05,
            candidate_seconds=0.091,
            difference_seconds=0.041,
            low_seconds=0.038,
            high_seconds=0.045,
        ),
        StageShift(
            stage="denoise",
            base_seconds=0.1,
            candidate_seconds=0.1,
            difference_seconds=0.0,
            low_seconds=None,
            high_seconds=0.002,
        ),
    ),
    counters=(
        GateCounter(name="waits in the loop", base=0.0, candidate=4.0, worse=True),
        GateCounter(name="FLOPs", unit="flops", base=2e9, candidate=2e9),
        GateCounter(name="peak of results", unit="bytes", base=2048.0, candidate=1024.0),
        GateCounter(name="operations", base=None, candidate=None, skipped="unet is compiled"),
    ),
    differences=tuple(
        GateDifference(name=f"packages.{n}", base="1", candidate="2") for n in range(14)
    ),
    workload=Workload(),
)
UNDECIDED = msgspec.structs.replace(
    GATE, verdict="undecided", speed="undecided", reasons=(), would_decide="more", counters=()
)


def test_the_sentence() -> None:
    assert summary_of(GATE) == (
        "Slower, +21 % [+19, +22] of 200 ms: slower, wrong in at most 1 % of runs: vae_decode "
        "+41 ms [38, 45]."
    )
    assert summary_of(UNDECIDED).endswith("What would decide: more.")


def test_the_sentence_names_what_was_compared_and_nothing_else() -> None:
    exact = msgspec.structs.replace(UNDECIDED, verdict="pass", speed="not measured", ratio=None)
    assert "pictures were not compared" in summary_of(exact)
    verdict = Verdict(
        verdict="equivalent",
        reasons=(),
        pairs=5,
        margin=3.0,
        noise_floor={},
        per_class=(),
        worst_pairs=(),
    )
    both = msgspec.structs.replace(exact, pictures=verdict)
    assert summary_of(both) == "Pass by counters and pictures; time was not measured."


def test_the_page_says_stage_counters_and_causes() -> None:
    text = markdown(report_of(GATE))
    for words in (
        "here against main (0123456789): slower",
        "+38.0 ms to +45.0 ms",
        "not bounded yet",
        "more, worse",
        "1.00 KiB",
        "unet is compiled",
        "and 2 more, in the page and the JSON",
        "packages.13",
    ):
        assert words in text


def test_junit_has_a_case_for_each_question() -> None:
    (suite,) = ElementTree.fromstring(junit(GATE))
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "5",
        "failures": "2",
        "skipped": "1",
    }
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failed == {"speed", "waits in the loop"}


@pytest.mark.parametrize("text", ["\ud800", "\x00\x1b]0;x\x07", "]]></failure>", "\uffff"])
def test_junit_is_xml_whatever_the_names_are(text: str) -> None:
    record = msgspec.structs.replace(GATE, reasons=(text,), model=text)
    assert ElementTree.fromstring(junit(record)) is not None


def test_annotations_are_one_command_a_line() -> None:
    record = msgspec.structs.replace(GATE, reasons=("slower by 3 %\n::notice::x", "more waits"))
    assert github_annotations(record).splitlines() == [
        "::error title=halftime gate::slower by 3 %25%0A::notice::x",
        "::error title=halftime gate::more waits",
    ]
    assert github_annotations(UNDECIDED).startswith("::warning title=halftime gate::Undecided")


def test_an_empty_cell_is_not_written_in_bold() -> None:
    data = Table((Column("a"), Column("b")), (("x", ""),), emphasis=frozenset({0}))
    assert table(data).splitlines()[-1] == "| **x** |  |"
