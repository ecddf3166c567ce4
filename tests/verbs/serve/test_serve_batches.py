"""The worker between the pipe and the pipeline, with a pipeline that fails in every way."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from serve_helpers import job

from halftime.base.errors import BadInput, OutOfMemory
from halftime.verbs.serve.batches import Answers, Worker, settings_of
from halftime.verbs.serve.messages import EngineSettings, Final, Job, JobFailed
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Drawing, as_pixels
from halftime.verbs.serve.watching import Memory
from halftime.verbs.serve.wire import Begin, Channel, DrawTask


class FullStudio:
    """Memory for one picture at a time, and for those that ask for `nothing` none."""

    shadow = None

    def draw(self, jobs: tuple[Job, ...], watch: Watch) -> Drawing:
        watch.begin()
        if len(jobs) > 1 or jobs[0].prompt == "too large":
            raise OutOfMemory("out of memory")
        return Drawing(np.full((1, 2, 2, 3), jobs[0].seed, np.uint8), MEASURED)  # type: ignore[arg-type]


RUN = SimpleNamespace(wall_seconds=1.0)
MEASURED = SimpleNamespace(costs={}, run=RUN)


def worker(studio: object, sent: list[object]) -> Worker:
    bare = Worker.__new__(Worker)
    bare.channel = Channel(io.BytesIO(), io.BytesIO())
    bare.channel.send = sent.append  # type: ignore[method-assign]
    bare.studio, bare.previews = studio, None  # type: ignore[assignment]
    return bare


def test_memory_that_runs_out_in_a_batch_is_given_back_and_pictures_drawn_alone() -> None:
    sent: list[object] = []
    drawing = worker(FullStudio(), sent)
    task = DrawTask(jobs=(job("a", seed=3), job("b", seed=4)), waited=(0.0, 0.0))
    drawing._draw(task, Answers(drawing.channel, task))
    assert [(event.id, event.pixels[0], event.batch_size) for event in sent] == [  # type: ignore[attr-defined]
        ("a", 3, 1),
        ("b", 4, 1),
    ]
    alone = DrawTask(jobs=(job(prompt="too large"),), waited=(0.0,))
    with pytest.raises(OutOfMemory):
        drawing._draw(alone, Answers(drawing.channel, alone))


def test_values_that_are_not_numbers_are_no_picture() -> None:
    images = np.zeros((2, 4, 4, 3))
    assert as_pixels(type("Output", (), {"images": images})()).shape == (2, 4, 4, 3)
    images[1, 2, 2, 0] = np.nan
    with pytest.raises(BadInput, match=r"not numbers.*bfloat16"):
        as_pixels(type("Output", (), {"images": images})())


@pytest.mark.parametrize(
    ("device", "cards", "number", "own"),
    [
        ("cuda", 4, 2, "cuda:2"),
        ("cuda", 2, 3, "cuda:1"),
        (None, 4, 2, "cuda:2"),  # the best here
        (None, 0, 2, None),
        ("cuda:3", 4, 1, "cuda:3"),
        ("cuda", 0, 1, "cuda"),
        ("cpu", 4, 1, "cpu"),
    ],
)
def test_each_of_several_workers_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str | None, cards: int, number: int, own: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    begin = Begin(settings=EngineSettings(device=device, workers=3), started=0.0, number=number)
    settings = settings_of(begin)
    assert settings.device == own
    if device == "cpu":
        assert settings.threads == 2
    placed = EngineSettings(model="tests.own:pipeline", workers=3)
    if device is None:
        assert settings_of(Begin(settings=placed, started=0.0, number=number)).device is None
    single = Begin(settings=EngineSettings(device=device), started=0.0)
    assert settings_of(single) is single.settings


def test_memory_is_that_of_the_card_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cards = {None: 10**12, torch.device("cuda:0"): 10**12, torch.device("cuda:1"): 10**10}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: on_cards[device])
    second = Memory(2**30, torch.device("cuda:1")).resident()
    host = Memory(2**30, torch.device("cpu")).resident()
    assert 10**10 <= second < 10**10 + 2 * host
    assert host < 10**10


def test_what_fails_is_internal_and_may_be_tried_again() -> None:
    sent: list[object] = []
    drawing = worker(FullStudio(), sent)
    drawing._after = lambda jobs: None  # type: ignore[method-assign]
    drawing._batch(DrawTask(jobs=(job(prompt="too large"),), waited=(0.0,)))
    answer = sent[-1]
    assert isinstance(answer, JobFailed)
    assert (answer.kind, answer.retryable) == ("internal", True)
    assert not any(isinstance(event, Final) for event in sent)
