"""When a worker is taken for dead: never for being slow, always for being stuck."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftime.verbs.serve.liveness import PATIENCE, Liveness, Phase
from halftime.verbs.serve.wire import Beat


def lived(seconds: int, steps_every: int, cpu_share: float, beats: bool = True) -> Liveness:
    """After so many seconds of a worker that makes a step every `steps_every` of them (0: none)."""
    liveness = Liveness()
    for second in range(seconds):
        if beats:
            steps = second // steps_every if steps_every else 0
            liveness.heard(Beat(steps=steps, cpu_seconds=cpu_share * second))
        liveness.look(1.0)
    return liveness


@pytest.mark.parametrize(
    ("phase", "seconds", "cpu_share", "alive"),
    [
        ("warming", 100, 0.0, True),
        ("warming", 130, 0.0, False),  # waits for something that never comes
        ("warming", 3000, 1.0, True),  # compiles
        ("warming", 3700, 1.0, False),
        ("loading", 1700, 0.0, True),  # another process has the lock of the cache
        ("loading", 90_000, 0.5, True),  # downloads
        ("drawing", 25, 0.0, True),
        ("drawing", 40, 0.0, False),
        ("drawing", 170, 1.0, True),  # compiles in front of a client
        ("drawing", 190, 1.0, False),  # a GPU that hangs, and a host that spins
        ("abandoned", 25, 1.0, True),
        ("abandoned", 40, 1.0, False),
        ("idle", 90_000, 0.0, True),
    ],
)
def test_standing_still(phase: Phase, seconds: int, cpu_share: float, alive: bool) -> None:
    verdict = lived(seconds, 0, cpu_share).verdict(phase)
    assert (verdict is None) == alive
    assert verdict is None or ("no processor time" in verdict) == (cpu_share == 0.0)


@pytest.mark.parametrize("phase", PATIENCE)
def test_steps_are_life_however_slow_and_silence_is_not(phase: Phase) -> None:
    assert lived(5000, 20, 0.0).verdict(phase) is None
    silent = lived(int(PATIENCE[phase].silent) + 1, 0, 0.0, beats=False).verdict(phase)
    assert silent is not None
    assert "no sign of life" in silent


def test_a_call_that_always_took_long_may_take_long() -> None:
    assert lived(500, 0, 0.0).verdict("drawing", call_seconds=60.0) is None
    assert lived(500, 0, 1.0).verdict("drawing", call_seconds=60.0) is None
    assert lived(601, 0, 0.0).verdict("drawing", call_seconds=60.0) is not None


@given(st.floats(0.0, 9.9))
def test_a_slow_heartbeat_is_one(late: float) -> None:
    liveness = Liveness()
    for _ in range(5):
        liveness.look(late)
        assert liveness.verdict("idle") is None
        liveness.heard(Beat(steps=0, cpu_seconds=0.0))


def test_a_pause_of_our_own_process_is_not_held_against_the_worker() -> None:
    """A look counts what a look takes, whatever the clock did since the last one."""
    liveness = lived(5, 0, 0.0)
    liveness.look(0.25)
    assert liveness.verdict("idle") is None
