"""The server on a device that works after the host: who is seen to leave, and when a preview is
there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from serve_helpers import job

from cuda_stand_ins import PlayedDevice
from halftime.fix.apply import applied
from halftime.records.recipe import Choice
from halftime.verbs.audit.loop import loop_watched
from halftime.verbs.audit.mode import ShadowDevice
from halftime.verbs.audit.run import on_device
from halftime.verbs.profile.clock import clock_for
from halftime.verbs.serve import preview as preview_module
from halftime.verbs.serve import streams
from halftime.verbs.serve.batches import Worker
from halftime.verbs.serve.messages import EngineSettings, Job, Preview
from halftime.verbs.serve.preview import Previews, SeenStep
from halftime.verbs.serve.stepping import NobodyWaits, Watch
from halftime.verbs.serve.streams import MOST_AHEAD, Aside, RunAhead, pictures_first
from halftime.verbs.serve.studio import open_studio

CUDA = torch.device("cuda", 0)
STEP, STEPS = 1.0, 30  # seconds on the device; the host takes a hundredth of one


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedDevice:
    monkeypatch.setattr(streams, "pinned_like", torch.empty_like)
    return PlayedDevice(monkeypatch)


def test_the_host_is_two_steps_ahead_and_a_busy_device_waits_for_nothing(
    played: PlayedDevice,
) -> None:
    pace, begun = RunAhead(), played.host
    for step in range(STEPS):
        played.current.queue(STEP, overhead=0.01)
        pace.step(CUDA)
        on_device = (played.host - begun) / STEP
        assert step + 1 - on_device <= MOST_AHEAD
    assert played.current.done - begun == pytest.approx(STEPS * STEP, abs=0.02)


def test_a_slow_host_is_not_held_up(played: PlayedDevice) -> None:
    pace, begun = RunAhead(), played.host
    for _ in range(STEPS):
        played.current.queue(0.01, overhead=STEP)
        pace.step(CUDA)
    assert played.host - begun == pytest.approx(STEPS * STEP)


def test_who_leaves_is_seen_within_the_steps_on_the_device(played: PlayedDevice) -> None:
    """Not only when all is queued, which is at once."""
    begun = played.host

    def waiting() -> Sequence[Job]:
        return [] if played.host - begun > 10 * STEP else [job("a")]

    watch = Watch([job("a")], waiting)
    sample = SimpleNamespace(device=CUDA)

    def loop() -> None:
        for _ in range(STEPS):
            played.current.queue(STEP, overhead=0.01)
            watch.after(SimpleNamespace(timesteps=[0] * 30), None, None, sample, None)  # type: ignore[arg-type]

    with pytest.raises(NobodyWaits):
        loop()
    assert watch.step <= 10 + 1 + MOST_AHEAD
    assert played.current.done - begun <= (10 + 1 + MOST_AHEAD) * STEP


def test_a_preview_waits_for_its_step_and_not_for_what_is_queued_behind(
    played: PlayedDevice,
) -> None:
    pictures_first(CUDA)
    aside = Aside(CUDA)
    played.current.queue(STEP)
    ready, begun = streams.queued_so_far(CUDA), played.host
    played.current.queue(20 * STEP)

    def compute() -> torch.Tensor:
        played.current.queue(0.2)
        return torch.full((2, 2, 3), 7, dtype=torch.uint8)

    pixels = aside.on_host(compute, ready)
    assert pixels is not None
    assert pixels.unique().tolist() == [7]
    assert played.host - begun == pytest.approx(STEP + 0.2, abs=0.01)
    pictures, previews = played.streams[1:]
    assert pictures.priority < previews.priority, "a lower number goes first"


def test_pictures_come_after_what_was_loaded_on_the_default_stream(played: PlayedDevice) -> None:
    played.default.queue(5.0)
    pictures_first(CUDA)
    assert played.current is not played.default
    assert played.current.done == played.default.done


def test_the_servers_clock_does_not_wait_for_a_preview(played: PlayedDevice) -> None:
    clock = clock_for(CUDA, alone=False)
    preview = played.Stream(CUDA)
    origin = clock.start()
    played.current.queue(1.0)
    preview.queue(50.0)
    end = clock.finish()
    assert clock.seconds(origin, [end]) == [pytest.approx(1.001)]
    assert end.host - origin.host == pytest.approx(1.001)


# ---- the thread of the previews


def previews_of(sent: list[Preview]) -> Previews:
    tiny = SimpleNamespace(device=torch.device("cpu"))
    return Previews(tiny, sent.append, lambda latents, width, height: latents)  # type: ignore[arg-type]


def seen(value: float) -> SeenStep:
    tensor = torch.full((1, 4, 2, 2), value)
    return SeenStep(SimpleNamespace(), tensor, None, tensor, None)  # type: ignore[arg-type]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the tiny VAE was given; a negative value fails."""
    values: list[float] = []

    def decode(tiny: object, latents: torch.Tensor) -> torch.Tensor:
        values.append(float(latents.flatten()[0]))
        if values[-1] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(2, 2, 3, dtype=torch.uint8)

    monkeypatch.setattr(preview_module, "decode", decode)
    monkeypatch.setattr(SeenStep, "estimate", lambda self: self.sample)
    return values


def test_a_preview_that_fails_is_dropped_and_the_next_one_comes(decoded: list[float]) -> None:
    sent: list[Preview] = []
    previews = previews_of(sent)
    previews.start()
    previews.open([job("a")])
    for step, value in enumerate((-1.0, 1.0)):
        previews.wish([job("a")], step, [seen(value)])
        previews.flush()
    assert [preview.step for preview in sent] == [1]
    assert previews.take_dropped() == 1


def test_nothing_is_decoded_while_something_is_captured(decoded: list[float]) -> None:
    previews = previews_of([])
    previews.start()
    previews.open([job("a")])
    with previews.paused():
        previews.wish([job("a")], 1, [seen(1.0)])
        assert not decoded
    previews.flush()
    assert decoded == [1.0]


def test_one_thread_warms_up_and_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of `reduce-overhead` belong to the thread that captured them."""
    threads: list[tuple[str, int]] = []

    class Ended(Exception):
        pass

    def note(what: str) -> None:
        threads.append((what, threading.get_ident()))

    def batch(self: Worker, task: object) -> None:
        note("drawn")
        raise Ended

    monkeypatch.setattr(Worker, "_warm", lambda self: note("warmed"))
    monkeypatch.setattr(Worker, "_batch", batch)
    monkeypatch.setattr("halftime.verbs.serve.batches.pictures_first", lambda _: note("stream"))
    worker = object.__new__(Worker)
    worker.studio = SimpleNamespace(pipeline=SimpleNamespace(device="cpu"))  # type: ignore[assignment]
    worker.channel = SimpleNamespace(batches=SimpleNamespace(get=lambda: None))  # type: ignore[assignment]
    worker.steps = None
    with pytest.raises(Ended):
        worker.run()
    here = threading.get_ident()
    assert threads == [("stream", here), ("warmed", here), ("drawn", here)]


# ---- the server's own path on the shadow device


class Wishes:
    """In the place of the previews: what was wished for."""

    def __init__(self) -> None:
        self.seen: list[SeenStep] = []

    def wish(self, jobs: Sequence[Job], step: int, seen: Sequence[SeenStep]) -> None:
        self.seen += seen


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_what_the_server_adds_to_a_loop_waits_for_the_pace_alone(scheduler: str) -> None:
    settings = EngineSettings(model="serve_models:sd15", scheduler=scheduler, tiny_vae=None)
    studio = open_studio(settings)
    jobs = [job(name, width=32, height=32, steps=4, previews=2) for name in "ab"]
    wishes = Wishes()
    with applied(studio.pipeline, [Choice(name="schedule-table")]), ShadowDevice() as device:
        device.sites.recording = False
        studio.template = studio.pipeline.scheduler
        with on_device(studio.pipeline), loop_watched(studio.pipeline, device):
            device.sites.recording = True
            studio.draw(jobs, Watch(jobs, lambda: jobs, wishes))  # type: ignore[arg-type]
            device.sites.recording = False
    assert len(wishes.seen) == 4
    waits = [site for site in device.sites.as_records() if site.in_loop]
    assert [site.file for site in waits if not site.file.endswith("serve/streams.py")] == []
