"""The real worker with the bundled model: previews, the picture, an abort, a kill, memory."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import numpy as np
import pytest
import torch
from serve_helpers import events_of, job, names, running, until

from halftime import bundled
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Final, Job, Preview, Started
from halftime.verbs.serve.process import COMMAND

SETTINGS = EngineSettings(steps=(4, 40), max_batch=1, img2img=False, threads=1)
PROMPT = "a 3D render of a red apple on a white background"


def wanted(name: str, **changes: object) -> Job:
    return job(name, **{"prompt": PROMPT, "width": 128, "height": 128, "steps": 4, **changes})


@pytest.mark.slow
def test_from_warm_up_to_picture() -> None:
    async def check() -> None:
        async with running(SETTINGS, COMMAND) as engine:
            certificate = engine.status.certificate
            assert certificate is not None, engine.status.why
            assert certificate.previews
            assert certificate.cold_start is not None
            assert certificate.cold_start.loaded_seconds < certificate.cold_start.ready_seconds

            events = await events_of(engine, wanted("first", seed=5, steps=40, previews=2))
            # A preview is dropped, by design, where the machine is too busy for it; two of two on a
            # quiet one.
            assert names(events) in (["Started", *["Preview"] * shown, "Final"] for shown in (1, 2))
            final = events[-1]
            assert isinstance(final, Final)
            pixels = np.frombuffer(final.pixels, np.uint8).reshape(128, 128, 3)
            np.testing.assert_array_equal(pixels, bare_picture(seed=5, steps=40))
            seen = [likeness(event, pixels) for event in events if isinstance(event, Preview)]
            assert seen == sorted(seen)
            assert min(seen) > 10  # dB

            whole = engine.queue.times.of(wanted("x", steps=40))
            assert whole is not None
            # It did not draw the forty steps to their end; thrice, since something else may run for
            # a second.
            assert any([await until_the_next(engine, attempt) < whole for attempt in "abc"])

            asked = asyncio.ensure_future(events_of(engine, wanted("killed", steps=40)))
            await until(lambda: engine.status.running == 1)
            pid = engine.status.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert names(await asked)[-1] == "Final"
            assert engine.status.retried == engine.status.workers_restarted == 1
            assert engine.status.state == "ready"
            assert engine.status.resident_bytes

    asyncio.run(check())


async def until_the_next(engine: Engine, name: str) -> float:
    """Seconds from when somebody leaves a picture of forty steps until the next one has its picture
    of four."""
    ticket = engine.submit(wanted(f"left-{name}", steps=40))
    async for event in ticket:
        assert isinstance(event, Started)
        break
    begun = time.monotonic()
    await ticket.aclose()
    assert isinstance((await events_of(engine, wanted(f"next-{name}")))[-1], Final)
    return time.monotonic() - begun


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
