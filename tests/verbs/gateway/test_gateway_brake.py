"""Loads that wait where they are told to, and end where nothing else helps: on a fake clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from halftime.verbs.gateway import brake, load
from halftime.verbs.gateway.brake import Brake
from halftime.verbs.gateway.client import Allowance, _seconds_of
from halftime.verbs.gateway.connection import Sample


@dataclass
class Clock:
    """Moves when somebody sleeps."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def brake(self, **settings: object) -> Brake:
        return Brake(sleep=self.sleep, clock=lambda: self.now, **settings)


def sample(arm: str = "direct", status: int = 200, **fields: object) -> Sample:
    result = Sample("", arm, 0.0, status=status)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


@dataclass
class FakePool:
    """Answers as the list says, and then as its last entry does."""

    statuses: list[int]
    arm: str = "direct"
    retry_after: float | None = None
    allowance: Allowance = field(default_factory=Allowance)
    sent: int = 0

    async def send(self, number: str, intended: float) -> Sample:
        status = self.statuses[min(self.sent, len(self.statuses) - 1)]
        self.sent += 1
        self.allowance.spend()
        error = "" if status else "connect: ConnectionRefusedError"
        retry = self.retry_after if status == 429 else None
        return sample(self.arm, status, error=error, retry_after=retry)

    async def warm(self, count: int) -> None:
        """Nothing to open."""


class NoShuffle:
    @staticmethod
    def shuffle(items: list) -> None:
        """Leave them."""


def sequential(pool: FakePool, rounds: int, brake: Brake) -> list:
    return asyncio.run(
        load.sequential([pool], rounds, lambda: "", NoShuffle, brake=brake)  # type: ignore
    )


def test_a_limiter_is_left_alone_for_as_long_as_it_asks() -> None:
    clock = Clock()
    slowed = clock.brake()
    assert len(sequential(FakePool([200, 429, 200, 429, 200], retry_after=2.5), 5, slowed)) == 5
    assert clock.slept == [2.5, 2.5]
    assert slowed.reason == ""


def test_without_a_retry_after_the_wait_doubles_until_patience_ends() -> None:
    clock, pool = Clock(), FakePool([429])
    ended = clock.brake()
    sequential(pool, 1000, ended)
    assert clock.slept == [1, 2, 4, 8]
    assert pool.sent == 5  # not 24,169
    assert ended.reason == "direct: 429, and it asks to wait 16.0 s"


def test_a_closed_loop_into_a_limiter_sends_hardly_more_than_its_workers() -> None:
    clock, pool = Clock(), FakePool([429], retry_after=30.0)
    ended = clock.brake()
    samples = asyncio.run(load.closed(pool, 8, 60.0, lambda: "", ended))  # type: ignore[arg-type]
    assert len(samples) == pool.sent <= 8
    assert "asks to wait 30.0 s" in ended.reason
    assert clock.slept == []  # longer than it would wait


def test_all_workers_wait_for_one_refusal() -> None:
    clock = Clock()
    slowed = clock.brake()
    for _ in range(8):  # under way together
        slowed.note(sample(status=429, retry_after=3.0))
    asyncio.run(slowed.wait())
    assert clock.slept == [3.0]
    assert slowed.reason == ""


def test_an_endpoint_that_is_gone_is_not_asked_for_long() -> None:
    pool = FakePool([200, 200, 0])
    ended = Clock().brake()
    sequential(pool, 1000, ended)
    assert pool.sent == 2 + brake.LOST_IN_A_ROW
    assert (ended.gone, ended.reason) == (
        "direct",
        "direct stopped answering: connect: ConnectionRefusedError",
    )


def test_nothing_but_errors_ends_a_load_and_some_do_not() -> None:
    ended, kept_on = Clock().brake(), Clock().brake()
    assert len(sequential(FakePool([502]), 1000, ended)) == brake.BAD_IN_A_ROW
    assert ended.reason == "direct: nothing but 502"
    assert len(sequential(FakePool([200] + [502] * 60), 60, kept_on)) == 60


def test_no_more_than_allowed_are_sent() -> None:
    allowance = Allowance(7)
    pools = [FakePool([200], arm, allowance=allowance) for arm in ("direct", "through")]
    ended = Clock().brake()
    pairs = asyncio.run(
        load.sequential(pools, 100, lambda: "", NoShuffle, brake=ended)  # type: ignore
    )
    assert len(pairs) == 3  # whole pairs
    assert ended.reason == "--max-requests 7 were sent"
    closed = FakePool([200], allowance=Allowance(20))
    asyncio.run(load.closed(closed, 8, 60.0, lambda: "", Clock().brake()))  # type: ignore
    assert closed.sent == 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("soon", None),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),  # long past
        ("1e9", 600.0),  # not believed
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert _seconds_of(text) == seconds


def test_what_speaks_another_protocol_has_not_stopped() -> None:
    ended = Brake()
    for _ in range(brake.BAD_IN_A_ROW):
        ended.note(sample("through", 0, error="not HTTP/1.1"))
    assert ended.reason == "through: nothing but not HTTP/1.1"
