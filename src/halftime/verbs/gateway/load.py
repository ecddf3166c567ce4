"""Ways to load: sequential pairs, a closed loop, and an open loop that sends on schedule.

Latency counts from the intended send everywhere, so that a queue cannot hide. Each stops for a
brake (`brake.py`): where an endpoint asks to wait, answers nothing any more, or where no more
requests are allowed. Cancelled, sequential pairs are given as far as they got; the other two drop
what is under way, since half a block of one arm compares with nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

from halftime.base import stats
from halftime.verbs.gateway.brake import Brake
from halftime.verbs.gateway.client import Pool
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.timer import Timer, now

Numbers = Callable[[], str]
FEWEST_ROUNDS = 5


def numbers(seed: int) -> Numbers:
    """Request ids: 8 hexadecimal digits, none twice."""
    counter = itertools.count(random.Random(seed).randrange(2**28))
    return lambda: f"{next(counter):08x}"


async def sequential(
    pools: Sequence[Pool],
    rounds: int,
    number: Numbers,
    rng: random.Random,
    seconds: float = float("inf"),
    brake: Brake | None = None,
) -> list[list[Sample]]:
    """One request at a time, both arms in each round in a shuffled order; a round is a pair.

    Ends early after `seconds`, though not before FEWEST_ROUNDS.
    """
    brake = brake or Brake()
    pairs: list[list[Sample]] = []
    deadline = now() + seconds
    for finished in range(rounds):
        if finished >= FEWEST_ROUNDS and now() > deadline:
            break
        if brake.reason or not brake.allows(pools, len(pools)):
            break
        try:
            pairs.append(await _pair(pools, number, rng, brake))
        except asyncio.CancelledError:
            brake.interrupt()
    return pairs


async def _pair(
    pools: Sequence[Pool], number: Numbers, rng: random.Random, brake: Brake
) -> list[Sample]:
    order = list(pools)
    rng.shuffle(order)
    by_arm = {}
    for pool in order:
        await brake.wait()
        by_arm[pool.arm] = await pool.send(number(), now())
        brake.note(by_arm[pool.arm])
    return [by_arm[pool.arm] for pool in pools]


async def closed(
    pool: Pool, workers: int, seconds: float, number: Numbers, brake: Brake | None = None
) -> list[Sample]:
    """`workers` requests in flight all the time, each sent when its predecessor is answered."""
    brake = brake or Brake()
    await pool.warm(workers)
    deadline, samples = now() + seconds, list[Sample]()

    async def worker() -> None:
        while now() < deadline and brake.allows([pool], 1):
            sample = await pool.send(number(), now())
            samples.append(sample)
            brake.note(sample)
            await brake.wait()
            if brake.reason:
                return

    await asyncio.gather(*(worker() for _ in range(workers)))
    return samples


def schedule(rate: float, seconds: float, poisson: bool, rng: random.Random) -> list[float]:
    """Offsets of the sends from the start, in seconds.

    Evenly spaced, or with exponential gaps of the same mean.
    """
    if not poisson:
        return [i / rate for i in range(max(1, int(rate * seconds)))]
    moments = stats.poisson(rate, rng)
    return list(itertools.takewhile(lambda moment: moment < seconds, moments)) or [0.0]


async def open_loop(
    pool: Pool,
    offsets: Sequence[float],
    number: Numbers,
    timer: Timer,
    brake: Brake | None = None,
) -> list[Sample]:
    """Send at the given offsets whatever happened to those before (Schroeder et al., NSDI 2006).

    While the endpoint has asked to wait, those that fall due are left out.
    """
    brake = brake or Brake()
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Sample]] = []
    everything_sent = loop.create_future()
    start = now() + 0.005

    async def send(intended: float) -> Sample:
        sample = await pool.send(number(), intended)
        brake.note(sample)
        return sample

    def fire(intended: float, last: bool) -> None:
        if not brake.reason and not brake.pausing and brake.allows([pool], 1):
            tasks.append(loop.create_task(send(intended)))
        if last and not everything_sent.done():
            everything_sent.set_result(None)

    for index, offset in enumerate(offsets):
        moment, last = start + offset, index + 1 == len(offsets)
        timer.call_at(moment, lambda moment=moment, last=last: fire(moment, last))  # type: ignore[misc]
    try:
        await everything_sent
        return list(await asyncio.gather(*tasks))
    except asyncio.CancelledError:
        brake.interrupt()  # or those that are still due would be sent
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
