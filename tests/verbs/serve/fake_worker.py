"""A worker without torch that speaks the real protocol; a job's prompt says what happens to it.

'crash' kills the process in the middle, 'crash once FILE' only where FILE does not exist yet,
'hang' never ends, 'slow' takes a quarter of a second, 'broken' answers nothing at all, 'recompile'
reports a recompile. A model named 'broken' cannot be served; 'breaks' can once; one named 'dies'
dies while it loads; 'mute' never becomes ready.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from serve_helpers import certificate

from halftime.records.serve import RecompileAfterReady
from halftime.verbs.serve.channel import Channel
from halftime.verbs.serve.messages import Final, Job, Preview, Started
from halftime.verbs.serve.wire import BatchDone, Broken, Draw, Loaded, Ready, Recompiled


def main() -> None:
    channel = Channel.over_standard_streams()
    begin = channel.begin()
    assert begin is not None
    channel.listen()
    print("what a library prints must not reach the engine")  # noqa: T201
    model = begin.settings.model
    if model == "broken":
        channel.send(Broken(message="no such model"))
        return
    if model == "breaks":
        marker = Path(begin.settings.recipe or "")
        if marker.exists():
            channel.send(Broken(message="the disk is gone"))
            return
        marker.touch()
    if model == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    channel.send(Loaded())
    while model == "mute":
        time.sleep(1)
    channel.send(Ready(certificate=certificate(), resident_bytes=1))
    while True:
        batch(channel, channel.batches.get())


def batch(channel: Channel, draw: Draw) -> None:
    for job, waited in zip(draw.jobs, draw.waited, strict=True):
        channel.send(Started(id=job.id, queue_seconds=waited, batch_size=len(draw.jobs)))
    for job in draw.jobs:
        misbehave(channel, job)
    for step in range(1, 3):
        for job in draw.jobs:
            if job.previews >= step:
                channel.send(
                    Preview(id=job.id, index=step - 1, step=step, width=1, height=1, pixels=b"abc")
                )
    for job, waited in zip(draw.jobs, draw.waited, strict=True):
        if job.prompt != "broken" and not channel.cancelled(job):
            channel.send(final(job, waited, len(draw.jobs)))
    channel.forget(draw.jobs)
    channel.send(BatchDone(resident_bytes=2))


def misbehave(channel: Channel, job: Job) -> None:
    word, _, rest = job.prompt.partition(" ")
    marker = Path(rest.removeprefix("once ")) if rest.startswith("once ") else None
    if word == "crash" and (marker is None or not marker.exists()):
        if marker is not None:
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "recompile":
        channel.send(
            Recompiled(found=(RecompileAfterReady(guard="the size of x changed", when="now"),))
        )
    elif word == "slow":
        end = time.monotonic() + 0.25
        while time.monotonic() < end and not channel.cancelled(job):
            time.sleep(0.01)
    while word == "hang" and not channel.cancelled(job):
        time.sleep(0.01)


def final(job: Job, waited: float, batch_size: int) -> Final:
    return Final(
        id=job.id,
        width=job.width,
        height=job.height,
        steps=job.steps,
        pixels=job.prompt.encode(),
        stages={"denoise": 0.001},
        queue_seconds=waited,
        compute_seconds=0.001,
        batch_size=batch_size,
    )


if __name__ == "__main__":
    sys.exit(main())
