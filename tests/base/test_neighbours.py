"""Who else is at work is noticed, named, and given way to, before anything is measured."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from halftime.base import neighbours
from halftime.base.neighbours import Neighbour, Surroundings, look, sentence, yield_to

TRAINING = Neighbour(7, "ann", "python train.py")
TUNING = Neighbour(8, "bob", "halftime tune", measures=True)


class Machine:
    """Processes that take cores while the look lasts; its clock is the sleep's."""

    def __init__(self, takes: dict[Neighbour, float], load: float = 4.0, idle: float = 0.0) -> None:
        self.takes, self.load, self.idle, self.now = takes, load, idle, 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        replaced = {
            "usable_cores": lambda: 2,
            "load_average": lambda: self.load,
            "_processes": lambda: iter(self.takes),
            "_cpu_seconds": lambda processes: {
                process.pid: cores * self.now for process, cores in self.takes.items()
            },
            "_idle_seconds": lambda: self.idle * self.now,
            "time": SimpleNamespace(sleep=self.sleep, perf_counter=lambda: self.now),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(neighbours, name, value)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_who_takes_the_cores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine({TRAINING: 1.6, Neighbour(9, "x", "idle"): 0.0}).install(monkeypatch)
    seen = look()
    assert seen.busy
    assert [process.pid for process in seen.neighbours] == [7]
    words = sentence(seen)
    assert "'python train.py' (process 7 of ann, 1.6 cores)" in words
    assert "let one end first" not in words


def test_another_halftime_that_measures_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine({TRAINING: 0.2, TUNING: 0.0}, load=0.0, idle=2.0).install(monkeypatch)
    words = sentence(look())  # also where it has only begun
    assert words.index("halftime tune") < words.index("train.py")
    assert "two that measure at once" in words


def test_a_load_of_the_past_minute_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine({TRAINING: 0.0}, idle=1.9).install(monkeypatch)
    assert not look().busy
    assert sentence(look()) == ""


def test_a_quiet_machine_is_not_looked_at_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({TRAINING: 0.0}, load=0.1)
    machine.install(monkeypatch)
    assert not look().busy
    assert machine.now == 0.0


def test_work_that_cannot_be_seen_is_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine({}, load=9.0, idle=0.1).install(monkeypatch)
    assert "by whom cannot be seen from here" in sentence(look())


@pytest.mark.parametrize(
    ("words", "measures"),
    [
        (["/usr/bin/halftime", "tune", "sdxl"], True),
        (["python", "-m", "halftime", "profile"], True),
        (["python", "-m", "halftime", "gateway", "mock"], False),
        (["vim", "halftime", "notes.md"], False),
        (["python", "train.py"], False),
    ],
)
def test_what_measures(words: list[str], measures: bool) -> None:
    assert neighbours._measures(words) is measures


def test_this_process_is_no_neighbour_of_itself() -> None:
    import os

    assert os.getpid() not in {process.pid for process in neighbours._processes()}


BUSY = Surroundings(2, 0.0, (TRAINING,))


def test_idle_threads_sleep_beside_others_where_torch_is_not_there_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setattr(os, "environ", {})
    assert not yield_to(BUSY)  # torch has read the setting
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(neighbours, "sys", SimpleNamespace(modules=modules))
    assert not yield_to(Surroundings(2, 2.0))
    assert neighbours.wait_policy_words() == {}
    assert yield_to(BUSY)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert neighbours.wait_policy_words() == {"OMP_WAIT_POLICY": neighbours.YIELDING}
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "ACTIVE"})
    assert not yield_to(BUSY)  # the user's own choice


def test_halftimes_own_choice_makes_no_two_sessions_unlike() -> None:
    from halftime.records import Environment

    facts = {"system": "", "processor": "", "cores": 2, "memory_bytes": 1, "threads": 2}
    quiet = Environment(device="cpu", device_name="", **facts)  # type: ignore[arg-type]
    busy = Environment(
        device="cpu",
        device_name="",
        settings={"OMP_WAIT_POLICY": neighbours.YIELDING},
        **facts,  # type: ignore[arg-type]
    )
    assert quiet.identity() == busy.identity()


def test_the_command_line_says_it_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from halftime.cli.around import look_around

    monkeypatch.setattr(neighbours, "look", lambda: BUSY)
    look_around(quiet=False)
    assert "python train.py" in capsys.readouterr().err
    look_around(quiet=True)
    assert capsys.readouterr().err == ""
