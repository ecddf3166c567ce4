"""The real worker with the bundled model: previews, the picture, an abort, a kill, memory."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import psutil
import pytest
import torch
from serve_helpers import events_of, job, names, running, until

from halftime import bundled
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Final, Job, Preview, Started
from halftime.verbs.serve.process import COMMAND

SETTINGS = EngineSettings(
    steps=(4, 40), max_batch=1, img2img=False, threads=1, deadline_seconds=None
)
PROMPT = "a 3D render of a red apple on a white background"


def apple(name: str, **changes: object) -> Job:
    return job(name, **{"prompt": PROMPT, "width": 128, "height": 128, "steps": 4, **changes})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_warm_up_to_picture() -> None:
    async def check() -> None:
        async with running(SETTINGS, COMMAND) as engine:
            certificate = engine.status.certificate
            assert certificate is not None, engine.status.why
            assert certificate.previews
            assert certificate.cold_start is not None
            assert certificate.cold_start.loaded_seconds < certificate.cold_start.ready_seconds

            before = cpu_seconds(engine)
            events = await events_of(engine, apple("first", seed=5, steps=40, previews=2))
            # A preview is dropped, by design, where the machine is too busy for it; two of two on a
            # quiet one.
            assert names(events) in (["Started", *["Preview"] * count, "Final"] for count in (1, 2))
            final = events[-1]
            assert isinstance(final, Final)
            pixels = np.frombuffer(final.pixels, np.uint8).reshape(128, 128, 3)
            np.testing.assert_array_equal(pixels, bare_picture(seed=5, steps=40))
            likenesses = [likeness(event, pixels) for event in events if isinstance(event, Preview)]
            assert likenesses == sorted(likenesses)
            assert min(likenesses) > 10  # dB

            # Of the next forty steps few were drawn: counted in CPU time, which other processes
            # do not change.
            assert await until_the_next(engine) < cpu_seconds(engine) - before

            answer = asyncio.ensure_future(events_of(engine, apple("killed", steps=40)))
            await until(lambda: engine.status.running == 1)
            pid = engine.status.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert names(await answer)[-1] == "Final"
            assert engine.status.retried == engine.status.workers_restarted == 1
            assert engine.status.state == "ready"
            assert engine.status.resident_bytes

    asyncio.run(check())


def cpu_seconds(engine: Engine) -> float:
    """What the worker has computed so far."""
    times = psutil.Process(engine.status.worker_pid).cpu_times()
    return times.user + times.system


async def until_the_next(engine: Engine) -> float:
    """CPU seconds from when somebody leaves a picture of forty steps until the next client has one
    of four."""
    events = engine.submit(apple("left", steps=40))
    async for event in events:
        assert isinstance(event, Started)
        break
    begun = cpu_seconds(engine)
    await events.aclose()
    assert isinstance((await events_of(engine, apple("next")))[-1], Final)
    return cpu_seconds(engine) - begun


def bare_picture(seed: int, steps: int) -> np.ndarray:
    pipeline = bundled.load()
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=bundled.GUIDANCE,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return np.asarray(image)


def likeness(preview: Preview, final: np.ndarray) -> float:
    """PSNR in dB."""
    pixels = np.frombuffer(preview.pixels, np.uint8).reshape(final.shape)
    error = np.mean((pixels.astype(float) - final.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
