"""`halftime show`: every file of a verb is known by its fields and drawn as the verb drew it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import halftime
from halftime.base.errors import BadFile
from halftime.base.store import write_json
from halftime.cli import _run
from halftime.records.benchmark import Benchmark
from halftime.records.forecast import Forecast
from halftime.records.gateway import GatewayResult
from halftime.records.tune import Tuning
from halftime.records.verdict import Verdict
from halftime.report.registry import REPORT_FUNCTIONS
from halftime.report.show import read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_is_drawn(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(["show", str(path), "--html", str(tmp_path / "page.html")], debug=False) == 0
    shown = capfd.readouterr().out
    assert len(shown.splitlines()) > 5
    # the page holds the record, its tables and a fixed frame
    assert (tmp_path / "page.html").stat().st_size < 1_000_000 + 3 * path.stat().st_size


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fix_peers.json", Benchmark),
        ("tune/tune.json", Tuning),
        ("fix_verdict_equivalent.json", Verdict),
        ("gateway_real/nginx.chat.json", GatewayResult),
    ],
)
def test_a_file_is_known_by_its_fields(name: str, kind: type) -> None:
    assert type(read(RESULTS / name)) is kind


def test_what_a_verb_wrote_comes_back_from_json_and_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made, page, again = tmp_path / "made.json", tmp_path / "page.html", tmp_path / "again.json"
    words = ["forecast", "sdxl", "--gpu", "A10G"]
    assert _run([*words, "--json", str(made), "--html", str(page), "--quiet"], debug=False) == 0
    assert _run(words, debug=False) == 0
    drawn = capfd.readouterr().out
    assert _run(["show", str(page), "--json", str(again), "--quiet"], debug=False) == 0
    assert json.loads(again.read_bytes()) == json.loads(made.read_bytes())
    assert _run(["show", str(made)], debug=False) == 0
    assert capfd.readouterr().out == drawn
    assert type(read(page)) is Forecast


def test_every_record_that_is_drawn_has_a_verb_or_a_benchmark() -> None:
    """Each verb's report module is reached; `profile` and `trace` share the session's."""
    reports = {
        path.stem
        for path in (ROOT / "src" / "halftime" / "report").glob("*.py")
        if "def report_of(" in path.read_text()
    } - {"session", "registry"}
    assert {
        drawn_by.partition(":")[0].rpartition(".")[2] for drawn_by in REPORT_FUNCTIONS.values()
    } == reports


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1}', "holds nothing that halftime draws"),
        ("[1]", "is neither JSON nor a page"),
        ("{", "is neither JSON nor a page"),
        ("<html></html>", "without halftime's data"),
    ],
)
def test_other_files_are_refused_in_a_sentence(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadFile, match=says):
        read(tmp_path / "x.json")


def test_a_field_too_many_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "b.json", Benchmark(benchmark="x", result={"rows": []}))
    data = json.loads((tmp_path / "b.json").read_text()) | {"more": 1}
    (tmp_path / "b.json").write_text(json.dumps(data))
    with pytest.raises(BadFile, match="more"):
        read(tmp_path / "b.json")


def test_show_prints_a_record_and_a_file_alike(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = halftime.forecast("sdxl", "A10G")
    write_json(tmp_path / "f.json", made)
    halftime.show(made)
    printed = capfd.readouterr().out
    halftime.show(tmp_path / "f.json")
    assert capfd.readouterr().out == printed
    assert "sdxl on one A10G" in printed
