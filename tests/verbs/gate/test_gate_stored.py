"""A stored gate as the base: its counters, and nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gate_machine import CANDIDATE, Machine
from halftime.base.errors import BadInput
from halftime.records import Workload
from halftime.records.gate import Gate
from halftime.verbs.gate.compare import WAITS
from halftime.verbs.gate.run import GateSettings, gate
from halftime.verbs.gate.sides import side_of

EXACT = GateSettings(exact=True, pictures=0)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """What a run of before wrote."""
    file = tmp_path / "gate.json"
    Machine(versions={"versions.torch": "2.12"}).gate(exact=True).save(file)
    return file


def against(file: Path, machine: Machine, **changes: object) -> Gate:
    arguments = {"model": None, "workload": Workload(), "settings": EXACT, **changes}
    with side_of(str(file)) as base:
        return gate(
            base=base,
            candidate=CANDIDATE,
            start=machine.start,
            clock=lambda: machine.now,
            **arguments,
        )


def test_the_same_again_passes_and_starts_one_process(stored: Path) -> None:
    machine = Machine()
    record = against(stored, machine)
    assert (record.verdict, record.base.kind, record.base.label) == ("pass", "stored", str(stored))
    assert machine.most_alive == 1
    (difference,) = record.differences
    assert (difference.base, difference.candidate) == ("2.12", "2.13")
    assert all(counter.details == () for counter in record.counters)  # no line is new


def test_one_more_wait_is_worse(stored: Path) -> None:
    record = against(stored, Machine(waits=1))
    assert record.verdict == "worse"
    assert record.objections == (f"{WAITS}: 100 before, 101 now",)


def test_a_chain_of_stored_gates_goes_on(stored: Path, tmp_path: Path) -> None:
    record = against(stored, Machine(waits=2))
    record.save(tmp_path / "next.json")
    assert against(tmp_path / "next.json", Machine(waits=2)).verdict == "pass"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": GateSettings(pictures=0)}, "its times are of another hour"),
        ({"settings": GateSettings(exact=True, pictures=5)}, "Say --exact --pictures 0"),
        ({"model": "mine:make"}, "is about bundled, not about mine:make"),
        ({"workload": Workload(steps=3)}, r"another steps: 30 there, 3 here"),
        ({"workload": Workload(steps=3, width=64)}, "another width, steps"),
    ],
)
def test_what_it_cannot_answer_is_refused(
    stored: Path, changes: dict[str, object], says: str
) -> None:
    machine = Machine()
    with pytest.raises(BadInput, match=says):
        against(stored, machine, **changes)
    assert machine.most_alive == 0


def test_a_gate_of_before_such_fields_still_loads(stored: Path) -> None:
    record = msgspec.json.decode(stored.read_bytes(), type=dict[str, object])
    for name in ("accepted", "history", "objections"):
        record.pop(name)
    for counter in record["counters"]:
        counter.pop("lines")
    stored.write_bytes(msgspec.json.encode(record))
    assert against(stored, Machine()).verdict == "pass"
