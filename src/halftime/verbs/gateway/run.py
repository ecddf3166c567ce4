"""One measurement: both arms, every load level, interleaved."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from halftime.base import units
from halftime.base.environment import load_average, processor_name
from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress, silent
from halftime.base.stats import median
from halftime.base.version import version
from halftime.records.gateway import GatewayResult, Generator, Load, Mode, PayloadFacts
from halftime.verbs.gateway import analysis, load, process, upstream
from halftime.verbs.gateway.client import Pool, Sample
from halftime.verbs.gateway.endpoint import Endpoint, Payload, endpoint, shown
from halftime.verbs.gateway.extra import load_ca_bundle, need, run_async
from halftime.verbs.gateway.failures import DIRECT, FAILING_SHARE, failing_sentence, failures
from halftime.verbs.gateway.findings import GatewayEvidence, find
from halftime.verbs.gateway.mock import Behaviour
from halftime.verbs.gateway.summary import beyond_capacity, limits, summarised
from halftime.verbs.gateway.timer import Timer, now

NOISY_CORES = 0.25  # kept busy by other processes; above it the report doubts itself
BLOCKS = 3  # of each arm at each level, in shuffled order
FLOOR_REQUESTS = 300  # to the generator's own mock, one at a time
CROWD_SECONDS = 1.0  # of a closed loop to it, for the highest rate
LAG_LIMIT = 0.0015  # seconds; above it the generator's own lateness is a doubt


@dataclass(frozen=True)
class GatewaySettings:
    """What to measure and how: two ways to one upstream, and the loads."""

    direct: str
    through: str | None = None
    payload: Payload = field(default_factory=Payload)
    target: str = "openai"
    requests: int = 200  # sequential pairs at most
    sequential_seconds: float = 60.0  # for a slow upstream, fewer
    concurrency: int = 8  # closed loop; 0 leaves it out
    rates: tuple[float, ...] = ()
    arrivals: tuple[Mode, ...] = ("constant", "poisson")
    seconds: float = 6.0  # of each arm at each level
    timeout: float = 30.0
    key_env: str | None = None
    through_key_env: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    through_headers: dict[str, str] = field(default_factory=dict)
    overhead_header: str = "x-litellm-overhead-duration-ms"
    ca_file: str | None = None
    pid: int | None = None
    max_background: float | None = None
    seed: int = 0


def gateway(settings: GatewaySettings, progress: Progress | None = None) -> GatewayResult:
    """Measure what the gateway adds.

    Raises BadInput for what cannot be reached or understood, HalftimeError where other processes
    kept more than `max_background` cores busy.
    """
    need("httptools")
    measurement = _Measurement(settings, progress or silent)
    return run_async(measurement.measure())


def _endpoints(settings: GatewaySettings) -> list[tuple[str, Endpoint]]:
    """The arms: name and endpoint, the direct one first."""
    arms = [("direct", settings.direct, settings.key_env, settings.headers)]
    if settings.through:
        key = settings.through_key_env or settings.key_env
        arms.append(("through", settings.through, key, settings.headers | settings.through_headers))
    return [
        (
            name,
            endpoint(
                url,
                settings.payload,
                settings.target,
                key_env=key,
                headers=headers,
                overhead_header=settings.overhead_header,
                ca_file=settings.ca_file,
            ),
        )
        for name, url, key, headers in arms
    ]


class _Measurement:
    """State of one measurement: its pools, its random numbers, its timer."""

    def __init__(self, settings: GatewaySettings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress
        self.rng = random.Random(settings.seed)
        self.number = load.numbers(settings.seed)
        self.arms = _endpoints(settings)
        self.mock = upstream.is_mock(settings.direct)
        self.upstream = process.listener_pids(settings.direct)
        pid = process.checked_pid(settings.pid) if settings.pid else None
        self.gateway: set[int] = set()
        if settings.through:
            self.gateway = {pid} if pid else process.listener_pids(settings.through)
        self.unloaded: tuple[float, ...] = (0.0, 0.0)
        self.fresh: dict[str, tuple[float, float]] = {}
        self.response_bytes: int | None = None
        self.first_latency: float | None = None  # of the gateway's first request

    async def measure(self) -> GatewayResult:
        self.timer = Timer(asyncio.get_running_loop())
        self.pools = [Pool(point, name, self.settings.timeout) for name, point in self.arms]
        try:
            return await self._measure()
        finally:
            for pool in self.pools:
                pool.close()
            self.timer.close()

    async def _measure(self) -> GatewayResult:
        settings = self.settings
        first = await self._first_requests()
        await self._fresh_connections()
        with _no_collection():
            loads = [await self._sequential()]
            if settings.concurrency:
                loads.append(await self._closed())
            for rate in settings.rates:
                for arrival in settings.arrivals:
                    loads.append(await self._open(rate, arrival))
            generator = await _calibrated(self, loads)
        return self._result(loads, generator, first)

    async def _first_requests(self) -> float | None:
        """What the gateway's first request took longer than the direct one, in seconds.

        Raises BadInput where an endpoint cannot be reached or refuses.
        """
        samples = []
        for pool in self.pools:
            sample = await pool.send(self.number(), now())
            if not sample.ok:
                raise BadInput(_refusal(sample, pool))
            samples.append(sample)
        for _ in range(3):
            for pool in self.pools:
                await pool.send(self.number(), now())
        self.response_bytes = samples[0].received
        if len(samples) < 2:
            return None
        self.first_latency = samples[1].latency
        return samples[1].latency - samples[0].latency

    async def _fresh_connections(self, count: int = 10) -> None:
        for pool in self.pools:
            opened = [await pool.open() for _ in range(count)]
            for connection, _, _ in opened:
                connection.close()
            self.fresh[pool.arm] = median([o[1] for o in opened]), median([o[2] for o in opened])

    def _meter(self) -> process.Meter:
        return process.Meter(self.gateway, self.upstream)

    async def _sequential(self) -> Load:
        self.progress("one request at a time", 0, 1)
        if self.mock:
            upstream.take_log(self.settings.direct)
        meter = self._meter()
        meter.start()
        pairs = await load.sequential(
            self.pools,
            self.settings.requests,
            self.number,
            self.rng,
            self.settings.sequential_seconds,
        )
        meter.stop(through=True)
        result = self._load("sequential", pairs, meter)
        latencies = tuple(arm.p50 for arm in (result.direct, result.through) if arm)
        self.unloaded = latencies or self.unloaded
        return result

    async def _closed(self) -> Load:
        workers = self.settings.concurrency

        async def block(pool: Pool, _: int) -> list[Sample]:
            return await load.closed(pool, workers, self.settings.seconds / BLOCKS, self.number)

        blocks, meter = await self._interleaved("closed loop", block)
        result = self._load("closed", _zipped(blocks), meter, blocks)
        return msgspec.structs.replace(result, concurrency=workers)

    async def _open(self, rate: float, arrival: Mode) -> Load:
        seconds = self.settings.seconds / BLOCKS
        offsets = [
            load.schedule(rate, seconds, arrival == "poisson", self.rng) for _ in range(BLOCKS)
        ]

        async def block(pool: Pool, index: int) -> list[Sample]:
            # Both arms get the same schedule, so that their requests can be paired.
            await pool.warm(min(64, max(4, int(rate * 0.05))))
            return await load.open_loop(pool, offsets[index], self.number, self.timer)

        blocks, meter = await self._interleaved(f"{rate:g} requests/s, {arrival}", block)
        return self._load(arrival, _zipped(blocks), meter, blocks, rate)

    async def _interleaved(
        self, name: str, block: Callable[[Pool, int], Awaitable[list[Sample]]]
    ) -> tuple[list[list[list[Sample]]], process.Meter]:
        """Blocks of each arm in a shuffled order; [block][arm] -> samples."""
        if self.mock:
            upstream.take_log(self.settings.direct)
        meter, blocks = self._meter(), []
        for index in range(BLOCKS):
            self.progress(name, index, BLOCKS)
            order = list(self.pools)
            self.rng.shuffle(order)
            samples = {}
            for pool in order:
                meter.start()
                samples[pool.arm] = await block(pool, index)
                meter.stop(through=pool.arm == "through")
            blocks.append([samples[pool.arm] for pool in self.pools])
        return blocks, meter

    def _load(
        self,
        mode: Mode,
        pairs: Sequence[Sequence[Sample]],
        meter: process.Meter,
        blocks: list[list[list[Sample]]] | None = None,
        rate: float | None = None,
    ) -> Load:
        log = upstream.take_log(self.settings.direct) if self.mock else {}
        indices = range(len(self.pools))
        if blocks:
            arms = [[s for block in blocks for s in block[i]] for i in indices]
        else:
            arms = [[pair[i] for pair in pairs] for i in indices]
        return summarised(mode, pairs, arms, blocks, log, meter, self.fresh, rate, self.unloaded)

    def _result(
        self, loads: list[Load], generator: Generator, first: float | None
    ) -> GatewayResult:
        settings, payload = self.settings, self.settings.payload
        _, capacity = limits(loads)
        loads = beyond_capacity(loads)
        held, _ = limits(loads)
        evidence = GatewayEvidence(
            loads, self.first_latency, ca_bundle_seconds(), capacity, payload.stream
        )
        with_picture = payload.kind in ("image-in", "image-out")
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
            held_rate=held,
            capacity=capacity,
            first_request=first,
            machine={"processor": processor_name(), "load_average": f"{load_average():.2f}"},
            doubts=tuple(_doubts(loads, generator, settings)),
        )


def _zipped(blocks: list[list[list[Sample]]]) -> list[tuple[Sample, ...]]:
    """The i-th request of each arm in each block is a pair; a surplus has no partner."""
    return [pair for block in blocks for pair in zip(*block, strict=False)]


def _refusal(sample: Sample, pool: Pool) -> str:
    answer = sample.error or f"HTTP status {sample.status}"
    return (
        f"the {sample.arm} endpoint {pool.endpoint.host}:{pool.endpoint.port} answered the first "
        f"request with {answer}. Check its URL, --target, --model and the keys (--key-env, "
        "--header)."
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
    run.progress("the generator's own floor", 0, 1)
    with upstream.spawned(Behaviour(delay=0.0)) as (url, _):
        pool = Pool(endpoint(url, Payload()), "direct", run.settings.timeout)
        await load.sequential([pool], FLOOR_REQUESTS // 6, run.number, run.rng)  # warm-up
        singles = await load.sequential([pool], FLOOR_REQUESTS, run.number, run.rng)
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
    """CPU that a new HTTP client spends on the CA bundle here, median of three.

    None without certifi.
    """
    times = []
    for _ in range(3):
        start = time.thread_time()
        try:
            load_ca_bundle()
        except ImportError:
            return None
        times.append(time.thread_time() - start)
    return median(times)


def _doubts(
    loads: Sequence[Load], generator: Generator, settings: GatewaySettings
) -> Iterator[str]:
    noisy = max(item.background_cores for item in loads)
    text = f"other processes kept {noisy:.1f} cores busy; quieten the machine and run again"
    if settings.max_background is not None and noisy > settings.max_background:
        raise HalftimeError(
            f"refused: {text}, or raise --max-background ({settings.max_background:g} cores)."
        )
    if noisy > NOISY_CORES:
        yield text + "."
    if generator.send_lag_p99 and generator.send_lag_p99 > LAG_LIMIT:
        yield (
            f"requests left up to {units.seconds(generator.send_lag_p99)} (p99) after their time: "
            "the generator was late, and that is in the latencies. Lower --rate, or give it its "
            "own core."
        )
    if generator.headroom is not None and generator.headroom < 2:
        yield f"the generator can send only {generator.max_rate:.0f} requests/s; lower --rate."
    if any(item.direct_saturated for item in loads):
        yield (
            "the upstream itself was saturated at some rate, so the gateway's limit is not "
            "known there; lower --rate."
        )
    upstream_fails = failures(loads, DIRECT)
    if settings.through and upstream_fails.share > FAILING_SHARE:
        yield (
            f"{upstream_fails.sentence()}: the upstream itself fails; only requests answered both "
            "ways are compared."
        )
    pairs = loads[0].requests // (2 if settings.through else 1)
    if pairs < 100:
        yield (
            f"p99 of {pairs} sequential pairs is next to their maximum; raise --requests or "
            "--sequential-time."
        )
