"""What is counted by shapes: the same at every call, and one more where one more is done."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters

from halftime.pipeline.load import LoadedPipeline
from halftime.records import Workload
from halftime.verbs.gate.compare import (
    BREAKS,
    BYTES,
    COUNTERS,
    FLOPS,
    GRAPHS,
    MEMORY,
    OPERATIONS,
    WAITS,
)
from halftime.verbs.gate.counting import OperationCounter, count
from tiny_pipelines import PIPELINES


def test_operations_bytes_and_what_is_alive_at_once() -> None:
    x = torch.zeros(256)  # 1 KiB, there before
    with OperationCounter() as counter:
        y = x + 1  # reads 1, writes 1
        z = y.view(16, 16)  # moves nothing
        del y  # its storage stays
        z = z * 2  # reads 1, writes 1; then the first one goes
        z = z * 2
        z.mul_(2)  # in place: nothing more is alive
    assert counter.operations == 4
    assert counter.bytes == 1024 * (2 + 2 + 2 + 2)
    assert counter.peak == 2048


def test_two_calls_count_the_same_and_one_more_wait_is_found() -> None:
    counters.clear()  # of the process, in which other tests compiled
    workload = Workload(steps=2, width=32, height=32)
    pipeline = PIPELINES["sdxl"].build()
    loaded = LoadedPipeline(pipeline, "tiny", ())
    first, again = count(loaded, workload), count(loaded, workload)
    assert set(first.values) == set(COUNTERS)
    assert not first.skipped
    assert first.values == again.values
    assert min(first.values[name] for name in (OPERATIONS, BYTES, FLOPS, MEMORY)) > 0
    assert first.values[BREAKS] == first.values[GRAPHS] == 0

    step = pipeline.scheduler.step

    def waits(*arguments, **named):
        result = step(*arguments, **named)
        result[0].sum().item()
        return result

    pipeline.scheduler.step = waits
    slower = count(loaded, workload)
    assert slower.values[WAITS] == first.values[WAITS] + 2
    assert slower.values[OPERATIONS] > first.values[OPERATIONS]
    assert any("result[0].sum().item()" in line for line in slower.details[WAITS])


def test_what_cannot_be_counted_says_why() -> None:
    """A pipeline's own code fails on the shadow device; the rest is counted all the same."""
    pipeline = PIPELINES["sdxl"].build()
    step = pipeline.scheduler.step

    def picky(sample, *arguments, **named):
        if sample.device.type != "cpu":
            raise RuntimeError("not on that device")
        return step(sample, *arguments, **named)

    pipeline.scheduler.step = picky
    counts = count(LoadedPipeline(pipeline, "tiny", ()), Workload(steps=2, width=32, height=32))
    assert "not on that device" in counts.skipped[WAITS]
    assert WAITS not in counts.values
    assert counts.values[OPERATIONS] > 0
