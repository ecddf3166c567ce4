"""What is accepted on purpose: its lines, which of them count, and what they cover."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gate_machine import Machine, git
from halftime.base.errors import BadFile, BadInput
from halftime.base.lines import append_lines
from halftime.records.gate import ACCEPTED_FILE, Acceptance, Gate
from halftime.verbs.gate.accept import accept, counting, objections_of
from halftime.verbs.gate.compare import MEMORY, WAITS
from halftime.verbs.gate.sides import Side, side_of

WHY = "a second text encoder"


@pytest.mark.parametrize(
    ("subject", "what", "at_most"),
    [
        ("speed=8%", "speed", 0.08),
        ("speed = 0.08", "speed", 0.08),
        ("vae_decode=150%", "vae_decode", 1.5),
        ("waits=2", WAITS, 2),
        ("memory=10%", MEMORY, 0.1),
        ("compiled graphs=1", "compiled graphs", 1),
        ("pictures", "pictures", None),
    ],
)
def test_a_line_says_what_and_how_much(subject: str, what: str, at_most: float | None) -> None:
    line = accept(subject, f" {WHY}\n")
    assert (line.what, line.at_most, line.reason) == (what, at_most, WHY)
    assert line.date


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ("sped=8%", "Did you mean 'speed'"),
        ("speed", "how much at most"),
        ("speed=0%", "more than 0 %"),
        ("speed=8", "is not a share"),
        ("speed=-8%", "is not a share"),
        ("waits=3%", "how many more"),
        ("waits=0", "how many more"),
        ("waits=²", "how many more"),
        ("pictures=3%", "others or not"),
        ("", "nothing that a gate looks at"),
    ],
)
def test_a_line_that_says_nothing_is_refused(subject: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        accept(subject, WHY)


def test_a_reason_is_required() -> None:
    with pytest.raises(BadInput, match="--reason is empty"):
        accept("speed=8%", " \t")


# ---- what they cover

SLOWER = {"vae_decode": 0.01}  # of calls of 0.2 s: 5 %


@pytest.mark.parametrize(
    ("subject", "verdict"),
    [
        ("speed=20%", "accepted"),
        ("vae_decode=20%", "accepted"),
        ("speed=4%", "slower"),
        ("denoise=20%", "slower"),
        ("speed=1%", "slower"),  # less than counts as slower anyway
        ("waits=2", "slower"),
    ],
)
def test_a_slowdown_is_accepted_up_to_its_amount_and_by_its_stage(
    subject: str, verdict: str
) -> None:
    record = Machine(slower={"vae_decode": 0.02}, between=0.003).gate(
        budget=600, acceptances=(accept(subject, WHY),)
    )
    assert (record.verdict, record.speed) == (verdict, "slower")
    if verdict == "accepted":
        assert record.reasons[0].startswith(f"slower, accepted: {WHY} (at most 20.0 %, 20")
        assert "ms [19." in record.reasons[0]
        assert record.objections == ()
        assert [line.reason for line in record.accepted] == [WHY]
    else:
        assert record.accepted == ()
        assert record.objections


def test_a_stage_may_not_hide_another_ones_slowdown() -> None:
    machine = Machine(slower={"vae_decode": 0.02, "denoise": 0.02}, between=0.003)
    record = machine.gate(budget=600, acceptances=(accept("vae_decode=40%", WHY),))
    assert record.verdict == "slower"
    assert "accepted is at most 40.0 % by vae_decode alone" in record.objections[1]


def test_the_run_goes_on_until_the_amount_is_decided_too() -> None:
    """5 % slower is shown at once, within 6 % only later."""
    plain = Machine(slower=SLOWER).gate(budget=2000)
    limited = Machine(slower=SLOWER).gate(budget=2000, acceptances=(accept("speed=6%", WHY),))
    assert (plain.verdict, limited.verdict) == ("slower", "accepted")
    assert len(limited.cohorts) > len(plain.cohorts)
    assert limited.high is not None
    assert limited.high < 1.06


@pytest.mark.parametrize(("most", "verdict"), [(1, "worse"), (2, "accepted"), (3, "accepted")])
def test_waits_are_accepted_by_number(most: int, verdict: str) -> None:
    record = Machine(waits=2).gate(exact=True, acceptances=(accept(f"waits={most}", WHY),))
    assert record.verdict == verdict
    (counter,) = (c for c in record.counters if c.worse)
    assert counter.accepted == (WHY if verdict == "accepted" else "")
    assert any(WHY in reason for reason in record.reasons) is (verdict == "accepted")
    if verdict == "worse":
        assert "101" not in record.objections[0]
        assert "102 now, and accepted is at most 1 more: mine.py:7" in record.objections[0]


def test_pictures_are_accepted_and_broken_ones_never() -> None:
    lines = (accept("pictures", WHY),)
    record = Machine(grey=60).gate(exact=True, pictures=5, acceptances=lines)
    assert record.verdict == "accepted"
    assert record.reasons[-1].startswith(f"other pictures, accepted: {WHY}")
    machine = Machine(grey=60, black=True)
    assert machine.gate(exact=True, pictures=5, acceptances=lines).verdict == "worse"


def test_what_was_not_needed_is_said() -> None:
    record = Machine().gate(exact=True, acceptances=(accept("waits=2", WHY),))
    assert (record.verdict, record.accepted) == ("pass", ())
    assert record.notes == (f"accepted, and not needed here: {WAITS}, at most 2 more",)


def test_the_largest_of_several_counts() -> None:
    lines = (accept("waits=1", "one"), accept("waits=2", "two"), accept("waits=1", "one again"))
    record = Machine(waits=2).gate(exact=True, acceptances=lines)
    assert [line.reason for line in record.accepted] == ["two"]


# ---- from a gate's record


def test_all_that_a_gate_objected_to_becomes_lines() -> None:
    machine = Machine(waits=2, grey=60)
    record = machine.gate(exact=True, pictures=5)
    record = msgspec.structs.replace(record, model="mine:make")
    lines = objections_of(record, WHY)
    assert [(line.what, line.at_most) for line in lines] == [(WAITS, 2), ("pictures", None)]
    assert {(line.model, line.against) for line in lines} == {("mine:make", "before")}
    again = Machine(waits=2, grey=60).gate(exact=True, pictures=5, acceptances=lines)
    assert again.verdict == "accepted"
    with pytest.raises(BadInput, match="objected to nothing: its verdict is accepted"):
        objections_of(again, WHY)


def test_a_measured_slowdown_becomes_its_upper_bound() -> None:
    record = Machine(slower=SLOWER).gate(budget=600)
    (line,) = objections_of(record, WHY)
    assert line.what == "speed"
    assert line.at_most is not None
    assert record.high is not None
    assert record.high - 1 <= line.at_most < record.high - 1 + 0.0011


# ---- which lines count


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    Path("mine.py").write_text("speed = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return tmp_path


def whats(base: Side, file: str | None = None, model: str | None = None) -> list[str]:
    return [line.what for line in counting(file, base, model)]


def test_a_line_counts_until_the_base_has_it(repository: Path) -> None:
    with side_of("main", "mine:make") as base:
        assert counting(None, base, None) == ()
        append_lines(ACCEPTED_FILE, (accept("speed=8%", WHY),))
        assert whats(base) == ["speed"]
        assert whats(base, str(repository / ACCEPTED_FILE)) == ["speed"]
    git("add", ".")
    git("commit", "-q", "-m", "accepted")
    with side_of("main", "mine:make") as base:
        assert whats(base) == []
        append_lines(ACCEPTED_FILE, (accept("waits=1", WHY),))
        assert whats(base) == [WAITS]
    with side_of("main~1", "mine:make") as base:
        assert whats(base) == ["speed", WAITS]


def test_a_file_outside_of_the_repository_would_never_be_spent(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("elsewhere") / "accepted.jsonl"
    append_lines(file, (accept("speed=8%", WHY),))
    with side_of("main", "mine:make") as base, pytest.raises(BadInput, match="lies outside"):
        counting(str(file), base, None)


def test_lines_are_for_their_model_and_their_base(tmp_path: Path) -> None:
    file = tmp_path / "accepted.jsonl"
    lines = (
        accept("speed=8%", WHY),
        accept("waits=1", WHY, model="mine:make"),
        accept("memory=5%", WHY, against="diffusers==0.41.*"),
    )
    append_lines(file, lines)
    assert whats(Side("diffusers==0.41.*", "requirement"), str(file)) == [MEMORY]
    assert whats(Side("diffusers==0.42.*", "requirement"), str(file)) == []
    assert whats(Side("", "requirement"), str(file)) == ["speed"]
    assert whats(Side("", "requirement"), str(file), "mine:make") == ["speed", WAITS]


@pytest.mark.parametrize(("created", "number"), [("2000-01-01", 1), ("2999-01-01", 0)])
def test_a_stored_gate_spends_what_is_older(tmp_path: Path, created: str, number: int) -> None:
    file = tmp_path / "accepted.jsonl"
    append_lines(file, (accept("speed=8%", WHY, against="gate.json"),))
    record = msgspec.structs.replace(Machine().gate(exact=True), created=created)
    base = Side("gate.json", "stored", stored=record)
    assert len(counting(str(file), base, None)) == number


@pytest.mark.parametrize("broken", ["{", '{"what": "speed"}', "<<<<<<< HEAD", '{"at_most": null}'])
def test_a_line_that_is_none_is_refused(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "accepted.jsonl"
    append_lines(file, (accept("speed=8%", WHY),))
    file.write_text(f"{file.read_text()}\n{broken}\n")
    with pytest.raises(BadFile, match=r"line 3, is not what `halftime gate accept` writes"):
        counting(str(file), Side("baseline", "baseline"), None)


def test_records_survive_their_files(tmp_path: Path) -> None:
    record = Machine(waits=2).gate(exact=True, acceptances=(accept("waits=2", WHY),))
    record.save(tmp_path / "g.json")
    assert msgspec.json.decode((tmp_path / "g.json").read_bytes(), type=Gate) == record
    assert isinstance(record.accepted[0], Acceptance)
