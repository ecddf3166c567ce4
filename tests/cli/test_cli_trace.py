"""`halftime trace` as a user types it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from halftime.cli import main
from trace_synthetic import Synthetic, diffusion


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["trace", *arguments])
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture
def stalled(tmp_path: Path) -> str:
    return str(diffusion(Synthetic()).write(tmp_path / "stalled.json.gz"))


def test_the_contract_for_scripts(stalled: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(stalled, "--json", "-") == 0
    data = json.loads(capfdbinary.readouterr().out)
    assert sum(row["seconds"] for row in data["ledger"]) == pytest.approx(data["wall_seconds"])
    assert {"busy_seconds", "idle_seconds", "idle_by_cause"} <= set(data["device"])
    assert data["syncs"][0]["count"] == 5


def test_console_html_and_markdown(
    stalled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, text = tmp_path / "t.html", tmp_path / "t.md"
    assert run(stalled, "--html", str(page), "--markdown", str(text)) == 0
    out = capfd.readouterr().out
    for word in ("On the device", "Where the host waited", "host-waits", "cudaStreamSynchronize"):
        assert word in out
        assert word in page.read_text()
        assert word in text.read_text()
    assert max(len(line) for line in out.splitlines() if not line.startswith("wrote ")) <= 80


def test_two_traces_are_compared_stage_by_stage(
    stalled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    smooth = str(diffusion(Synthetic(), sync_every_step=False).write(tmp_path / "smooth.json"))
    assert run(stalled, smooth) == 0
    out = capfd.readouterr().out
    assert "Speedup" in out
    assert "denoise" in out


def test_the_trace_for_perfetto_keeps_the_original_and_adds_our_tracks(
    stalled: str, tmp_path: Path
) -> None:
    out = tmp_path / "p.json.gz"
    assert run(stalled, "--quiet", "--perfetto", str(out)) == 0
    before = json.loads(gzip.decompress(Path(stalled).read_bytes()))
    after = json.loads(gzip.decompress(out.read_bytes()))
    count = len(before["traceEvents"])
    assert after["traceEvents"][:count] == before["traceEvents"]
    added = after["traceEvents"][count:]
    assert {event["tid"] for event in added} == {"stages", "device idle, by cause", "findings"}
    idle = sum(event["dur"] for event in added if event["name"] == "sync")
    assert idle == pytest.approx(5 * 105)
    assert min(event["ts"] for event in added) >= min(
        event["ts"] for event in before["traceEvents"]
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{}", "is not a Chrome trace"), ('{"traceEvents": []}', "holds no events")],
)
def test_what_is_no_trace_is_one_sentence(
    content: str, complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert run(str(path)) == 2
    assert run(str(tmp_path / "missing.json")) == 2
    err = capfd.readouterr().err
    assert complaint in err
    assert "cannot read" in err
    assert "Traceback" not in err


def test_a_damaged_trace_is_reported_but_not_annotated(
    stalled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = Path(stalled).read_bytes()
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(data[: len(data) // 2])
    assert run(str(cut)) == 0
    assert "ends too early" in " ".join(capfd.readouterr().out.split())
    assert run(str(cut), "--quiet", "--perfetto", str(tmp_path / "p.json")) == 2
    assert "only a whole trace can be annotated" in capfd.readouterr().err
