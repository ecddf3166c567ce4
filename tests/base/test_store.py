"""Records to files and back: unchanged, strict, and never half written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.base import store
from halftime.base.errors import BadFile, BadInput
from halftime.records import Environment, Finding, LedgerRow, Session, Workload
from halftime.records.recipe import Choice, Plan

PLACE = Environment(
    system="s", processor="p", cores=2, memory_bytes=1, threads=2, device="cpu", device_name="p"
)
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
WORKLOADS = st.builds(
    Workload,
    prompts=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    negative_prompt=st.none() | TEXT,
    width=st.none() | st.integers(8, 4096),
    steps=st.integers(1, 100),
    guidance=st.none() | st.floats(0, 20),
    seed=st.integers(0, 2**31),
    arguments=st.dictionaries(TEXT, SCALARS.filter(lambda value: value is not None), max_size=3),
)
SESSIONS = st.builds(
    Session,
    wall_seconds=st.floats(0, 1e4),
    environment=st.just(PLACE),
    workload=WORKLOADS,
    ledger=st.lists(
        st.builds(LedgerRow, stage=TEXT, seconds=st.floats(0, 10), share=st.floats(0, 1)),
        max_size=4,
    ).map(tuple),
)


@given(SESSIONS)
def test_a_session_comes_back_as_it_went(
    tmp_path_factory: pytest.TempPathFactory, session: Session
) -> None:
    path = tmp_path_factory.mktemp("store") / "session.json"
    store.write_json(path, session)
    assert store.read_json(path, Session) == session


@given(WORKLOADS)
def test_a_workload_comes_back_from_toml_with_the_same_hash(
    tmp_path_factory: pytest.TempPathFactory, workload: Workload
) -> None:
    path = tmp_path_factory.mktemp("store") / "workload.toml"
    store.write_toml(path, workload)
    again = store.read_toml(path, Workload)
    assert again == workload
    assert again.content_hash() == workload.content_hash()


@pytest.mark.parametrize("name", ["record.json", "record.toml"])
def test_a_record_saves_itself_in_the_form_that_its_name_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / name
    plan = Plan(fixes=(Choice(name="vae-dtype", settings={"dtype": "bfloat16"}),))
    plan.save(str(path))
    read = store.read_toml if path.suffix == ".toml" else store.read_json
    assert read(path, Plan) == plan
    with pytest.raises(BadFile, match="cannot write"):
        plan.save(path / "x.json")


def test_a_record_draws_itself_if_a_report_draws_its_type(tmp_path: Path) -> None:
    finding = Finding(id="vae-fp32", stage="vae_decode", message="the <vae> runs in fp32")
    finding.html(tmp_path / "finding.html")
    assert "the &lt;vae&gt; runs" in (tmp_path / "finding.html").read_text()
    assert store.read_report(tmp_path / "finding.html", Finding) == finding
    with pytest.raises(BadInput, match=r"a Workload has no report\. These have one: Audit, Bench"):
        Workload().html(tmp_path / "workload.html")
    assert not (tmp_path / "workload.html").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        store.write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "truncated"),
        (b"\x00\xff", "malformed|invalid"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field"),
        (b'{"schema": 99}', "schema"),
        (b'{"surprise": 1}', "surprise"),
    ],
)
def test_what_is_no_session_is_refused_by_name(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=complaint):
        store.read_json(path, Session)


def test_missing_files_folders_and_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file"):
        store.read_json(tmp_path / "none.json", Session)
    with pytest.raises(BadFile, match="is a folder"):
        store.read_json(tmp_path, Session)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="cannot write"):
        store.write_bytes(tmp_path / "file" / "x.json", b"")


def test_records_are_frozen_and_strict() -> None:
    with pytest.raises(AttributeError):
        Workload().steps = 3  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"steps": "many"}, type=Workload)


def test_where_nothing_can_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "x.json"):
        with pytest.raises(BadFile, match="cannot write"):
            store.check_writable(place)
    for place in ("-", tmp_path / "new" / "x.json", "x.json"):
        store.check_writable(place)
