"""The load test that users can run: its schedule, what it finds fault with, and a run against a
server with a stand-in worker."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftime.verbs.serve import selftest
from halftime.verbs.serve.selftest import (
    LoadedServer,
    LoadTest,
    PictureReply,
    arrivals,
    length_of,
    main,
    troubles,
)
from serve_fake import serving

READY = {"state": "ready", "alarms": []}
GOOD = [PictureReply(200, 1.0), PictureReply(200, 3.0), PictureReply(429, 0.1, retry_after=True)]


def counted(drawn: int, refused: int) -> dict[str, float]:
    return {selftest._PICTURES: drawn, selftest._REFUSED: refused}


@given(st.floats(0.1, 50.0), st.floats(0.1, 20.0))
@settings(max_examples=25)
def test_requests_come_in_order_within_the_time(rate: float, seconds: float) -> None:
    moments = arrivals(rate, seconds, random.Random(1))
    assert moments == sorted(moments)
    assert all(0 < moment < seconds for moment in moments)


def test_requests_come_as_often_as_asked() -> None:
    assert len(arrivals(10.0, 200.0, random.Random(0))) == pytest.approx(2000, rel=0.1)
    assert length_of(10.0, 5.0) == 5.0
    assert length_of(0.5, 5.0) == 24.0
    assert length_of(0.001, 5.0) == 120.0


def test_nothing_is_found_where_all_holds() -> None:
    assert troubles(GOOD, counted(2, 1), READY) == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (PictureReply(0, 1.0), "1 requests got no answer."),
        (PictureReply(200, 1.0, right=False), "1 answers held another picture."),
        (PictureReply(429, 1.0), "1 refusals did not say when to come back."),
        (PictureReply(500, 1.0), "1 requests got 500."),
        (PictureReply(504, 1.0), "1 requests got 504."),
    ],
)
def test_what_does_not_hold_is_said(reply: PictureReply, said: str) -> None:
    counts = counted(2 + (reply.status == 200), 1 + (reply.status == 429))
    assert troubles([*GOOD, reply], counts, READY) == [said]


def test_counters_and_state_are_held_against_what_was_sent() -> None:
    (sentence,) = troubles(GOOD, counted(3, 1), READY)
    assert sentence == "halftime_pictures_total rose by 3; 2 were answered with 200."
    state = {"state": "warming", "why": "again", "alarms": ["compiled after ready"]}
    assert troubles(GOOD, counted(2, 1), state) == [
        "The server is warming: again.",
        "alarm: compiled after ready",
    ]


def test_a_line_of_the_report() -> None:
    words = LoadTest(3.0, 6.0, tuple(GOOD), 4.0).words
    assert words.startswith("3x, 6.00/s: 2 x 200, 1 x 429; p50 2.00 s")
    assert words.endswith("0.50 pictures/s")


def test_a_run_against_a_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "LOADS", (1.0,))
    monkeypatch.setattr(selftest, "_FEWEST", 2)
    monkeypatch.setenv("HALFTIME_API_KEY", "secret, other")
    with serving(step_seconds=0.002, api_keys=("secret",), queue_limit=4) as server:
        assert main([server.address, "0.2"]) == 0
        assert LoadedServer(server.address, "wrong").ask(1).status == 401
    assert LoadedServer(server.address).ask(1).status == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("capacity: ")
    assert lines[-1].endswith("each answered once and with what it asked for")
