"""`replay`: a page holds its session, and a repetition elsewhere is explained field by field, stage
by stage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import halftime.verbs.profile.run
from halftime.base.errors import BadFile, BadInput
from halftime.base.store import read_report, to_json
from halftime.cli import _run
from halftime.pipeline.load import LoadedPipeline
from halftime.records import Session, Workload
from halftime.records.recipe import Recipe
from halftime.records.replay import Replay
from halftime.report.markdown import markdown
from halftime.report.page import html
from halftime.report.replay import report_of
from halftime.report.session import report_of as session_report_of
from halftime.testing import STORY, FakeClock, FakePipeline
from halftime.verbs.profile.run import ProfileSettings, measure
from halftime.verbs.replay import run as replaying


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(halftime.verbs.profile.run, "clock_for", lambda device: fake)
    return fake


def session(clock: FakeClock, **costs: float) -> Session:
    loaded = LoadedPipeline(FakePipeline(clock, STORY | costs), "mypackage:make", ())
    return measure(loaded, Workload(steps=4), ProfileSettings(runs=3, warmup=0, probes=False))


def elsewhere(base: Session, **changes: object) -> Session:
    return msgspec.structs.replace(
        base, environment=msgspec.structs.replace(base.environment, **changes)
    )


def test_a_page_gives_back_the_session_it_was_drawn_from(clock: FakeClock, tmp_path: Path) -> None:
    original = msgspec.structs.replace(
        session(clock), notes=("</script><script>alert(1)</script><!--",)
    )
    page = tmp_path / "p.html"
    page.write_text(html(session_report_of(original), original))
    assert replaying.read(page) == original
    assert "<script>alert" not in page.read_text()
    (tmp_path / "p.json").write_bytes(to_json(original))
    assert replaying.read(tmp_path / "p.json") == original


def test_files_that_cannot_be_replayed(clock: FakeClock, tmp_path: Path) -> None:
    original = session(clock)
    (tmp_path / "bare.html").write_text(html(session_report_of(original)))
    with pytest.raises(BadFile, match="without halftime's data"):
        replaying.read(tmp_path / "bare.html")
    (tmp_path / "recipe.html").write_text(html(session_report_of(original), Recipe(fixes=())))
    with pytest.raises(BadFile, match="not a session file"):
        replaying.read(tmp_path / "recipe.html")
    (tmp_path / "t.json").write_bytes(to_json(msgspec.structs.replace(original, kind="trace")))
    with pytest.raises(BadInput, match="read from a trace"):
        replaying.read(tmp_path / "t.json")


def test_the_same_again_differs_in_nothing(clock: FakeClock) -> None:
    replay = replaying.compared(session(clock), session(clock))
    assert replay.speedup == pytest.approx(1)
    assert replay.differences == ()
    assert "what remains is noise" in report_of(replay).summary


def test_one_slow_stage_is_named_and_no_other(clock: FakeClock) -> None:
    replay = replaying.compared(
        session(clock), session(clock, **{"vae.decode": 4 * STORY["vae.decode"]})
    )
    assert replay.stages["vae_decode"] == pytest.approx(1 / 4)
    text = markdown(report_of(replay))
    section = text.partition("Which stages moved otherwise")[2].partition("###")[0]
    assert "vae_decode: 0.25x" in section
    assert "it lost more" in section


def test_a_machine_that_is_slower_throughout_names_no_stage(clock: FakeClock) -> None:
    slow = session(clock, **{name: 3 * seconds for name, seconds in STORY.items()})
    replay = replaying.compared(session(clock), elsewhere(slow, processor="Old Processor"))
    assert replay.speedup == pytest.approx(1 / 3)
    text = markdown(report_of(replay))
    assert "is 1.25 times as far off as the whole" in text
    assert "another processor" in report_of(replay).summary


def test_differences_are_explained_the_weightiest_first(clock: FakeClock) -> None:
    base = session(clock)
    changed = elsewhere(
        base,
        threads=64,
        settings={"OMP_WAIT_POLICY": "ACTIVE"},
        device_name="another",
        versions={**base.environment.versions, "torch": "9.9"},
    )
    differences = replaying.compared(base, changed).differences
    assert [item.field for item in differences if "settings" not in item.field] == [
        "environment.device_name",
        "environment.threads",
        "environment.versions.torch",
    ]
    assert all(item.meaning for item in differences)
    assert differences[1].now == "64"


def test_a_session_from_python_asks_for_its_model(clock: FakeClock) -> None:
    original = msgspec.structs.replace(session(clock), model="FakePipeline")
    with pytest.raises(BadInput, match="--model"):
        replaying.model_of(original)
    assert (
        replaying.model_of(msgspec.structs.replace(original, model="bundled emoji-xl")) == "bundled"
    )


def test_what_lies_elsewhere_here_is_named(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How the model was loaded then is kept, and what is named here takes its place."""
    original = session(clock)
    workload = msgspec.structs.replace(original.workload, lora=("/there/a:0.5",), dtype="float16")
    original = msgspec.structs.replace(original, workload=workload, model="bundled emoji-xl")

    class Loaded(Exception):
        pass

    def load(model: str, workload: Workload) -> None:
        raise Loaded(model, workload.lora, workload.dtype)

    monkeypatch.setattr(replaying, "load", load)
    with pytest.raises(Loaded) as loaded:
        replaying.replay(original, source={"lora": ("/here/a:0.5",)})
    assert loaded.value.args == ("bundled", ("/here/a:0.5",), "float16")


def test_the_command_runs_the_workload_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, again = tmp_path / "p.html", tmp_path / "again.json"
    words = [
        "profile",
        "tiny_pipelines.images:sdxl",
        "--steps",
        "3",
        "--size",
        "32",
        "--runs",
        "2",
        "--warmup",
        "0",
    ]
    assert (
        _run(
            [*words, "--no-cold-start", "--no-probes", "--quiet", "--html", str(page)], debug=False
        )
        == 0
    )
    assert _run(["replay", str(page), "--warmup", "0", "--json", str(again)], debug=False) == 0
    assert "Speedup" in capfd.readouterr().out
    replay = read_report(again, Replay)
    assert replay.now.workload == replay.then.workload
    assert len(replay.now.runs) == len(replay.then.runs) == 2
    assert replay.differences == ()
