"""One measurement: both arms, every load level, interleaved."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import psutil

from halftime.base import units
from halftime.base.environment import load_average, processor_name
from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress, silent
from halftime.base.stats import median
from halftime.base.version import version
from halftime.records.gateway import GatewayResult, Generator, Load, Mode, PayloadFacts
from halftime.verbs.gateway import analysis, load, process, upstream
from halftime.verbs.gateway.brake import TIMEOUTS_IN_A_ROW, Brake
from halftime.verbs.gateway.client import Allowance, Pool
from halftime.verbs.gateway.compare import Log
from halftime.verbs.gateway.connection import Sample
from halftime.verbs.gateway.doubts import dead_addresses, doubts
from halftime.verbs.gateway.endpoint import Payload, endpoint, shown
from halftime.verbs.gateway.evidence import GatewayEvidence
from halftime.verbs.gateway.extra import load_ca_bundle, need, run_async
from halftime.verbs.gateway.failures import DIRECT, THROUGH, broken_sentences, failing_sentence
from halftime.verbs.gateway.findings import find
from halftime.verbs.gateway.knee import Knee
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.settings import GatewaySettings, arms_of
from halftime.verbs.gateway.summary import Loaded, beyond_capacity, limits, summarised
from halftime.verbs.gateway.timer import Timer, now

__all__ = ["GatewaySettings", "gateway"]

BLOCKS = 3  # of each arm at each level, in shuffled order
FLOOR_REQUESTS = 300  # to the generator's own mock, one at a time
CROWD_SECONDS = 1.0  # of a closed loop to it, for the highest rate
# refusals that say that the user's URL, key or model is wrong, rather than the gateway
_USERS_OWN = (400, 401, 403, 404, 405, 422)
Block = Callable[[Pool, int, Brake], Awaitable[list[Sample]]]


def gateway(settings: GatewaySettings, progress: Progress | None = None) -> GatewayResult:
    """Measure what the gateway adds.

    An endpoint that goes away meanwhile ends the measurement, and so does Ctrl-C: what was measured
    until then is given, with the reason (`stopped`, `interrupted`). Raises BadInput for what cannot
    be reached or understood, HalftimeError where other processes kept more than `max_background`
    cores busy, KeyboardInterrupt where nothing was measured yet.
    """
    need("httptools")
    measurement = _Measurement(settings, progress or silent)
    return run_async(measurement.measure())


class _Measurement:
    """State of one measurement: its pools, its random numbers, its timer."""

    def __init__(self, settings: GatewaySettings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress
        self.rng = random.Random(settings.seed)
        self.number = load.numbers(settings.seed)
        self.arms = arms_of(settings)
        self.mock = upstream.is_mock(settings.direct)
        self.upstream = process.listener_pids(settings.direct)
        pid = process.checked_pid(settings.pid) if settings.pid else None
        self.gateway: set[int] = set()
        if settings.through:
            self.gateway = {pid} if pid else process.listener_pids(settings.through)
        self.allowance = Allowance(settings.max_requests)
        self.unloaded: tuple[float, ...] = (0.0, 0.0)
        self.fresh: dict[str, tuple[float, float]] = {}
        self.response_bytes: int | None = None
        self.first_latency: float | None = None  # of the gateway's first request
        self.first_excess: float | None = None  # over the direct arm's first
        self.stopped: str | None = None
        self.gone = ""  # the arm that stopped
        self.interrupted = False
        self.over = False  # no further load is begun
        self.knee: Knee | None = None
        self.ca_bundle: float | None = None

    async def measure(self) -> GatewayResult:
        self.timer = Timer(asyncio.get_running_loop())
        self.ca_bundle = ca_bundle_seconds()
        self.begun = now()
        self.pools = [
            Pool(
                point,
                name,
                self.settings.timeout,
                allowance=self.allowance,
                poll=self.settings.poll,
            )
            for name, point in self.arms
        ]
        try:
            return await self._measure()
        finally:
            for pool in self.pools:
                pool.close()
            self.timer.close()

    async def _measure(self) -> GatewayResult:
        loads: list[Load] = []
        await self._first_requests()
        with _no_collection():
            try:
                await self._fresh_connections()
                async for level in self._levels(loads):
                    loads.append(level)
            except upstream.UpstreamGone as error:
                if not loads:
                    raise
                self._stop(DIRECT, str(error), "")
            except asyncio.CancelledError:
                if not loads:
                    raise
                self._note_interruption("")
            if not loads:
                raise asyncio.CancelledError
            generator = await self._calibrated(loads)
        return self._result(loads, generator)

    async def _calibrated(self, loads: Sequence[Load]) -> Generator | None:
        """None where the user does not wait for it."""
        if self.interrupted:
            return None
        try:
            return await _calibrated(self, loads)
        except asyncio.CancelledError:
            self._note_interruption("the generator's own floor")
            return None

    def _note_interruption(self, phase: str) -> None:
        """A cancellation arrived: it is dealt with by ending here."""
        brake = Brake()
        brake.interrupt()
        self._note_end(brake, phase)

    async def _levels(self, finished: Sequence[Load]) -> AsyncIterator[Load]:
        """Every load in turn, until they are done, or an endpoint or the user's patience is."""
        settings = self.settings
        if (level := await self._sequential()) is not None:
            yield level
        closed = settings.concurrency and not self.over
        if closed and (level := await self._closed()) is not None:
            yield level
        for rate in settings.rates:
            for arrival in settings.arrivals:
                if not self.over and (level := await self._open(rate, arrival)) is not None:
                    yield level
        if settings.knee:
            self.knee = Knee(finished)
            while not self.over and (next_rate := self.knee.next_rate()):
                level = await self._open(next_rate, "poisson")
                if level is not None:
                    self.knee.note(level)
                    yield level

    async def _first_requests(self) -> None:
        """Warm both arms, and keep what the first request through took.

        Raises BadInput where an endpoint cannot be reached, or refuses for the user's reasons.
        """
        samples = []
        for pool in self.pools:
            await pool.find()
            sample = await pool.send(self.number(), now())
            if not sample.ok and (pool.arm != THROUGH or _is_users_own(sample)):
                raise BadInput(_refusal(sample, pool))
            samples.append(sample)
        for _ in range(3 if samples[-1].ok else 0):
            for pool in self.pools:
                if self.allowance.left > 2 * len(self.pools):
                    await pool.send(self.number(), now())
        self.response_bytes = samples[0].received
        if len(samples) > 1 and samples[1].ok:
            self.first_latency = samples[1].latency
            self.first_excess = samples[1].latency - samples[0].latency

    async def _fresh_connections(self, count: int = 10) -> None:
        for pool in self.pools:
            opened = []
            with contextlib.suppress(OSError, TimeoutError):  # the requests will say so
                for _ in range(count):
                    opened.append(await pool.open())
            for connection, _, _ in opened:
                connection.close()
            if opened:
                self.fresh[pool.arm] = (
                    median([o[1] for o in opened]),
                    median([o[2] for o in opened]),
                )

    def _meter(self) -> process.Meter:
        return process.Meter(self.gateway, self.upstream)

    async def _sequential(self) -> Load | None:
        phase = "one request at a time"
        self.progress(phase, 0, 1)
        self._empty_log()
        meter, brake = self._meter(), Brake()
        meter.start()
        pairs = await load.sequential(
            self.pools,
            self.settings.requests,
            self.number,
            self.rng,
            self.settings.sequential_seconds,
            brake,
        )
        meter.stop(through=True)
        self._note_end(brake, phase)
        if not pairs:
            return None
        arms = [[pair[i] for pair in pairs] for i in range(len(self.pools))]
        result = self._load("sequential", pairs, arms, None, meter, brake)
        latencies = tuple(arm.p50 for arm in (result.direct, result.through) if arm)
        self.unloaded = latencies or self.unloaded
        return result

    async def _closed(self) -> Load | None:
        workers = self.settings.concurrency

        async def block(pool: Pool, _: int, brake: Brake) -> list[Sample]:
            seconds = self.settings.seconds / BLOCKS
            return await load.closed(pool, workers, seconds, self.number, brake)

        brake = Brake(timeouts=max(TIMEOUTS_IN_A_ROW, 2 * workers))
        result = await self._interleaved("closed", "closed loop", block, brake)
        return msgspec.structs.replace(result, concurrency=workers) if result else None

    async def _open(self, rate: float, arrival: Mode) -> Load | None:
        seconds = self.settings.seconds / BLOCKS
        offsets = [
            load.schedule(rate, seconds, arrival == "poisson", self.rng) for _ in range(BLOCKS)
        ]

        async def block(pool: Pool, index: int, brake: Brake) -> list[Sample]:
            # Both arms get the same schedule, so that their requests can be paired.
            await pool.warm(min(64, max(4, int(rate * 0.05))))
            return await load.open_loop(pool, offsets[index], self.number, self.timer, brake)

        # a queue ends in timeouts, which are that load's result
        brake = Brake(timeouts=2**30)
        return await self._interleaved(
            arrival, f"{rate:g} requests/s, {arrival}", block, brake, rate
        )

    async def _interleaved(
        self, mode: Mode, phase: str, block: Block, brake: Brake, rate: float | None = None
    ) -> Load | None:
        """Blocks of each arm in a shuffled order, as one load; None where not one was finished."""
        self._empty_log()
        meter, blocks = self._meter(), []
        for index in range(BLOCKS):
            if brake.reason:
                break
            self.progress(phase, index, BLOCKS)
            order = list(self.pools)
            self.rng.shuffle(order)
            samples = {}
            try:
                for pool in order:
                    await brake.wait()
                    meter.start()
                    samples[pool.arm] = await block(pool, index, brake)
                    meter.stop(through=pool.arm == THROUGH)
            except asyncio.CancelledError:
                brake.interrupt()
                break
            blocks.append([samples[pool.arm] for pool in self.pools])
        self._note_end(brake, phase)
        if not blocks:
            return None
        arms = [[s for block in blocks for s in block[i]] for i in range(len(self.pools))]
        return self._load(mode, _zipped(blocks), arms, blocks, meter, brake, rate)

    def _empty_log(self) -> None:
        if self.mock:
            upstream.take_log(self.settings.direct)

    def _log(self) -> Log | None:
        """The mock's, where it is one and still there."""
        if not self.mock:
            return None
        try:
            return upstream.take_log(self.settings.direct)
        except upstream.UpstreamGone as error:
            if not self.stopped:
                self._stop(DIRECT, str(error), "")
            return None

    def _load(
        self,
        mode: Mode,
        pairs: Sequence[Sequence[Sample]],
        arms: Sequence[list[Sample]],
        blocks: list[list[list[Sample]]] | None,
        meter: process.Meter,
        brake: Brake,
        rate: float | None = None,
    ) -> Load:
        log = self._log()
        return summarised(
            Loaded(
                mode=mode,
                pairs=pairs,
                arms=arms,
                blocks=blocks,
                log=log,
                meter=meter,
                fresh=self.fresh,
                rate=rate,
                unloaded=self.unloaded,
                within=self.settings.within,
                cut=brake.reason,
            )
        )

    def _note_end(self, brake: Brake, phase: str) -> None:
        """Begin no further load where this one was ended."""
        self.over = self.over or bool(brake.reason)
        if brake.interrupted:
            self.interrupted = True
            self._stop("", brake.reason, phase)
        elif brake.gone and not brake.reason.startswith(f"{brake.gone}: "):
            self._stop(brake.gone, brake.reason, phase)

    def _stop(self, arm: str, reason: str, phase: str) -> None:
        pids = {THROUGH: self.gateway, DIRECT: self.upstream}.get(arm, set())
        dead = sorted(pid for pid in pids if not psutil.pid_exists(pid))
        words = [
            f"{units.seconds(now() - self.begun)} into the measurement",
            f"after {units.count(self.allowance.spent)} requests",
            *([f"in '{phase}'"] if phase else []),
            *([f"process {', '.join(map(str, dead))} is gone"] if dead else []),
        ]
        self.stopped, self.gone, self.over = f"{reason} ({', '.join(words)})", arm, True

    def _result(self, loads: list[Load], generator: Generator | None) -> GatewayResult:
        settings, payload = self.settings, self.settings.payload
        _, capacity = limits(loads)
        loads = beyond_capacity(loads)
        held, _ = limits(loads)
        connect = sum(self.fresh.get(THROUGH, (0.0, 0.0)))
        evidence = GatewayEvidence(
            loads,
            first_request=self.first_latency,
            # a shared machine has slow minutes: the least of before and after
            ca_bundle=min(filter(None, (self.ca_bundle, ca_bundle_seconds())), default=None),
            capacity=capacity,
            stream=payload.stream,
            connect=connect,
            stopped=self.stopped if self.gone == THROUGH else None,
        )
        with_picture = payload.kind in ("image-in", "image-out")
        through_stopped = self.stopped if self.gone == THROUGH else None
        return GatewayResult(
            halftime=version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            direct=shown(settings.direct),
            through=shown(settings.through) if settings.through else None,
            target=settings.target,
            method="mock log" if any(item.truth for item in loads) else "paired difference",
            payload=PayloadFacts(
                kind=payload.kind,
                request_bytes=self.arms[0][1].request_bytes,
                response_bytes=self.response_bytes,
                stream=payload.stream,
                picture_bytes=payload.picture if with_picture else None,
            ),
            rates=tuple(loads),
            generator=generator,
            findings=find(evidence) if settings.through else (),
            failing=failing_sentence(loads, bool(settings.through)),
            broken=tuple(broken_sentences(loads, through_stopped)) if settings.through else (),
            stopped=self.stopped,
            interrupted=self.interrupted,
            http2=settings.http2,
            held_rate=held,
            capacity=capacity,
            knee=self.knee.held if self.knee else None,
            first_request=self.first_excess,
            requests=self.allowance.spent,
            machine={"processor": processor_name(), "load_average": f"{load_average():.2f}"},
            doubts=(*doubts(loads, generator, settings), *dead_addresses(self.pools)),
        )


def _zipped(blocks: list[list[list[Sample]]]) -> list[tuple[Sample, ...]]:
    """The i-th request of each arm in each block is a pair; a surplus has no partner."""
    return [pair for block in blocks for pair in zip(*block, strict=False)]


def _is_users_own(sample: Sample) -> bool:
    return sample.status in _USERS_OWN or sample.error.startswith("connect")


def _refusal(sample: Sample, pool: Pool) -> str:
    answer = sample.error or f"HTTP status {sample.status}"
    if answer == str(sample.status):
        answer = f"HTTP status {sample.status}"
    advice = "Check its URL, --target, --model and the keys (--key-env, --header)."
    if sample.hint:
        advice = sample.hint[:1].upper() + sample.hint[1:] + "."
    return (
        f"the {sample.arm} endpoint {pool.endpoint.host}:{pool.endpoint.port} answered the first "
        f"request with {answer}. {advice}"
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector's pauses, which would count as latency."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


async def _calibrated(run: _Measurement, loads: Sequence[Load]) -> Generator:
    """The instrument against its own mock without delay: latency floor, and its highest rate."""
    brake = Brake()
    run.progress("the generator's own floor", 0, 1)
    with upstream.spawned(Behaviour(delay=0.0)) as (url, _):
        pool = Pool(endpoint(url, Payload()), "direct", run.settings.timeout)
        warm_up = FLOOR_REQUESTS // 6
        await load.sequential([pool], warm_up, run.number, run.rng, brake=brake)
        singles = await load.sequential([pool], FLOOR_REQUESTS, run.number, run.rng, brake=brake)
        if brake.interrupted:
            raise asyncio.CancelledError
        crowd = await load.closed(pool, 16, CROWD_SECONDS, run.number)
        pool.close()
    floor = analysis.percentiles([s[0].latency for s in singles if s[0].ok])
    if floor is None:
        raise HalftimeError(
            "the generator could not reach its own mock on 127.0.0.1; is a firewall in between?"
        )
    max_rate = analysis.completed_rate(crowd)
    lags = [item.send_lag.p99 for item in loads if item.send_lag]
    return Generator(
        floor=floor,
        max_rate=max_rate,
        headroom=max_rate / max(run.settings.rates) if run.settings.rates else None,
        send_lag_p99=max(lags, default=None),
    )


def ca_bundle_seconds() -> float | None:
    """CPU that a new HTTP client spends on the CA bundle here, the least of five: on a busy machine
    the same work takes up to twice the CPU time.

    None without certifi.
    """
    times = []
    for _ in range(5):
        start = time.thread_time()
        try:
            load_ca_bundle()
        except ImportError:
            return None
        times.append(time.thread_time() - start)
    return min(times)
