"""What the engine's promises cost and whether they hold, on the bundled model, without HTTP.

Regime: one torch thread, 128 px, 30 steps, guidance 2.5, eager fp32; pairs measured in turns, so
that a drifting machine cancels. Bars: three previews cost at most 5 % of the final's latency and
change no bit of it; a picture from a batch is the picture alone to one grey level; resident memory
stands still over the soak.

    python -m benchmarks.serve.engine [ROW ...] --out benchmarks/results/serve_engine.json

The rows are previews, batches, soak and cold; those that the file holds already are kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks.frame import Frame
from halftime import bundled
from halftime.base.environment import load_average, processor_name, versions
from halftime.base.stats import median, paired_ratio
from halftime.verbs.serve.engine import Engine
from halftime.verbs.serve.messages import EngineSettings, Final, Job, Preview
from halftime.verbs.serve.preview import Previews, Unpacker
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, open_studio

SETTINGS = EngineSettings(threads=1)


def job(name: str, **changes: object) -> Job:
    prompt = bundled.prompts()[sum(map(ord, name)) % 500].text
    values = {
        "id": name,
        "prompt": prompt,
        "width": 128,
        "height": 128,
        "steps": 30,
        "seed": 1,
        **changes,
    }
    return Job(**values)


def draw(
    studio: Studio, jobs: Sequence[Job], previews: Previews | None = None
) -> tuple[float, np.ndarray]:
    """Seconds as a client of the worker waits for them, and the pictures."""
    begun = time.perf_counter()
    if previews is not None:
        previews.open(jobs)
    pictures = studio.draw(jobs, Watch(jobs, lambda: jobs, previews)).pictures
    return time.perf_counter() - begun, pictures


def previews(pairs: int = 25) -> dict:
    """The same picture with none and with three previews, in turns."""
    studio, sent = open_studio(SETTINGS), list[Preview]()
    decoder = Previews(studio.tiny, sent.append, Unpacker(studio.pipeline))
    decoder.start()
    draw(studio, [job("a")])
    without, with_them, processor, same = [], [], ([], []), True
    for pair in range(pairs):
        plain, previewed = [job("a", seed=pair)], [job("a", seed=pair, previews=3)]
        measured = {}
        for jobs in (plain, previewed) if pair % 2 else (previewed, plain):
            # of all threads: what the machine paid, whoever else is on it
            begun = time.process_time()
            measured[jobs[0].previews] = draw(studio, jobs, decoder if jobs is previewed else None)
            decoder.flush()
            processor[jobs is previewed].append(time.process_time() - begun)
        without.append(measured[0][0])
        with_them.append(measured[3][0])
        same &= bool((measured[0][1] == measured[3][1]).all())
    ratio, paid = paired_ratio(with_them, without), paired_ratio(processor[1], processor[0])
    return {
        "pairs": pairs,
        "median_seconds_without": median(without),
        "price_ratio": ratio.value,
        "price_low": ratio.low,
        "price_high": ratio.high,
        "processor_time_ratio": paid.value,
        "processor_time_low": paid.low,
        "processor_time_high": paid.high,
        "previews_shown": len(sent),
        "previews_dropped": decoder.take_dropped(),
        "pictures_equal": same,
    }


def batches(pictures: int = 24) -> dict:
    """Every picture alone and in batches of 2 and 4: seconds a picture, and how far the pictures
    are apart."""
    studio = open_studio(SETTINGS)
    jobs = [job(f"p{index}", seed=index) for index in range(pictures)]
    draw(studio, jobs[:1])
    alone = [draw(studio, [job]) for job in jobs]
    result: dict = {
        "pictures": pictures,
        "seconds_a_picture_alone": median([seconds for seconds, _ in alone]),
    }
    for size in (2, 4):
        draw(studio, jobs[:size])
        together = [draw(studio, jobs[at : at + size]) for at in range(0, pictures, size)]
        in_batches = np.concatenate([images for _, images in together]).astype(int)
        apart = in_batches - np.concatenate([images for _, images in alone])
        result[f"batch_of_{size}"] = {
            "seconds_a_picture": median([seconds / size for seconds, _ in together]),
            "pictures_equal": int((np.abs(apart).reshape(pictures, -1).max(axis=1) == 0).sum()),
            "largest_difference_in_grey_levels": int(np.abs(apart).max()),
            "share_of_values_that_differ": float((apart != 0).mean()),
        }
    return result


def soak(requests: int = 400) -> dict:
    """Requests of every kind through a real worker, some cancelled: its resident memory at each
    tenth."""
    return asyncio.run(_soak(requests))


async def _soak(requests: int) -> dict:
    engine = await _ready(
        Engine(EngineSettings(threads=1, steps=(3,), sizes=((128, 128), (96, 128))))
    )
    resident = []
    try:
        for number in range(requests):
            await _one(engine, number)
            resident.append(engine.status.resident_bytes or 0)
        status = engine.status
    finally:
        await engine.drain(10.0)
    tenths = [resident[index * requests // 10] for index in range(10)] + [resident[-1]]
    second_half = np.polyfit(np.arange(requests // 2), resident[requests // 2 :], 1)[0]
    return {
        "requests": requests,
        "completed": status.completed,
        "cancelled": status.cancelled,
        "resident_bytes_at_each_tenth": tenths,
        "bytes_a_request_over_the_second_half": float(second_half),
        "memory_drops": status.memory_drops,
        "recompiles": status.recompiles,
    }


async def _one(engine: Engine, number: int) -> None:
    ticket_job = job(
        f"s{number}",
        steps=3,
        width=(128, 96)[number % 2],
        previews=number % 3,
        guidance=(2.5, 1.0)[number // 2 % 2],
    )
    ticket = engine.submit(ticket_job)
    async for event in ticket:
        if number % 10 == 9:
            await ticket.aclose()
        assert not isinstance(event, Final) or len(event.pixels) == event.width * 128 * 3


async def _ready(engine: Engine) -> Engine:
    await engine.start()
    while engine.status.state not in ("ready", "failed"):
        await asyncio.sleep(0.05)
    if engine.status.state == "failed":
        raise RuntimeError(engine.status.why)
    return engine


def cold(times: int = 1) -> dict:
    """Process start to ready: eager; then with a compiled VAE, without and with saved artefacts, in
    empty caches."""
    result: dict = {"eager": [_cold_start(None, None) for _ in range(times)]}
    with tempfile.TemporaryDirectory() as folder:
        recipe, artefacts = Path(folder, "plan.toml"), Path(folder, "plan.artefacts")
        recipe.write_text('[[fixes]]\nname = "vae-compile"\n[fixes.settings]\nfreezing = false\n')
        result["compiled_without_artefacts"] = [_cold_start(recipe, artefacts)]
        result["artefacts_bytes"] = artefacts.stat().st_size  # written before the worker was ready
        result["compiled_with_artefacts"] = [_cold_start(recipe, artefacts) for _ in range(times)]
    return result


def _cold_start(recipe: Path | None, artefacts: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as cache:  # Inductor's usual cache must not help
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        settings = EngineSettings(
            threads=1,
            steps=(30,),
            max_batch=1,
            img2img=False,
            recipe=str(recipe) if recipe else None,
            artefacts=str(artefacts) if artefacts else None,
        )
        return asyncio.run(_times(settings))


async def _times(settings: EngineSettings) -> dict:
    engine = await _ready(Engine(settings))
    certificate = engine.status.certificate
    await engine.drain(5.0)
    assert certificate is not None
    assert certificate.cold_start is not None
    return {
        "loaded_seconds": certificate.cold_start.loaded_seconds,
        "ready_seconds": certificate.cold_start.ready_seconds,
        "first_pass_seconds": sum(entry.first_seconds for entry in certificate.entries),
        "second_pass_seconds": sum(entry.second_seconds for entry in certificate.entries),
        "graphs": certificate.graphs_second.unique_graphs,
        "artefacts": certificate.cold_start.artefacts is not None,
    }


ROWS = {"previews": previews, "batches": batches, "soak": soak, "cold": cold}


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument(
        "rows", nargs="*", choices=[*ROWS, []], help="which; by default, all of them"
    )
    options = frame.parse()
    result = dict(frame.earlier())
    for name in options.rows or ROWS:
        conditions = {
            "load_average": load_average(),
            "processor": processor_name(),
            "versions": versions(),
        }
        result[name] = {**ROWS[name](), **conditions}
        print(name, json.dumps(result[name], indent=1))
        frame.write(result)


if __name__ == "__main__":
    main()
