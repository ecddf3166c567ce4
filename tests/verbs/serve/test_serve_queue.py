"""The queue, batches, snapping and the steps of previews: pure logic, on a clock that moves when
told to."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_helpers import certificate, job

from halftime.testing import FakeClock
from halftime.verbs.serve.messages import QueueFull, Refused
from halftime.verbs.serve.preview import preview_steps
from halftime.verbs.serve.queue import (
    Queue,
    ServiceTime,
    batch_of,
    fitted,
    kind_of,
    nearest_size,
    nearest_steps,
)
from halftime.verbs.serve.warmup import Kind, Offered, batch_sizes, kinds, paying_batches

SIZES = st.integers(1, 12).map(batch_sizes)


def queue(limit: int = 4, seconds: float | None = None) -> tuple[Queue, FakeClock]:
    """`seconds`: what a picture of 10 steps is known to take."""
    clock = FakeClock()
    times = ServiceTime({} if seconds is None else {(64, 64): seconds / 10})
    return Queue(limit, lambda: clock.now, lambda: clock.now, times), clock


@given(st.lists(st.integers(0, 3), max_size=12), SIZES)
def test_a_batch_is_of_the_firsts_kind_in_order_and_of_a_warm_size(
    of_kinds: list[int], sizes: tuple[int, ...]
) -> None:
    chosen = batch_of(of_kinds, sizes)
    assert chosen == sorted(set(chosen))
    if of_kinds:
        assert chosen[0] == 0  # nobody is overtaken for ever
        assert len(chosen) in sizes
        assert {of_kinds[index] for index in chosen} == {of_kinds[0]}
        larger = [size for size in sizes if len(chosen) < size <= of_kinds.count(of_kinds[0])]
        assert not larger
    else:
        assert chosen == []


def test_what_shapes_the_call_keeps_jobs_apart() -> None:
    base = kind_of(job("a", prompt="one", seed=1, previews=0))
    assert kind_of(job("b", prompt="two", seed=2, previews=3)) == base
    for change in (
        {"width": 96},
        {"steps": 20},
        {"guidance": 2.0},
        {"negative_prompt": ""},
        {"image": b"x"},
        {"strength": 0.5},
    ):
        assert kind_of(job("b", **change)) != base
    assert kind_of(job("b", profile=True)) != base
    assert kind_of(job("b"), alone=True) != base


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 5), SIZES)
def test_a_queue_loses_and_doubles_nothing(
    arrivals: list[bool], limit: int, sizes: tuple[int, ...]
) -> None:
    line, _ = queue(limit)
    accepted, drawn_ids = [], []
    for number, arrives in enumerate(arrivals):
        if arrives:
            try:
                line.add(job(str(number), steps=10 + number % 2))
                accepted.append(str(number))
            except QueueFull:
                assert len(line) == limit
        else:
            drawn_ids += [item.job.id for item in line.take(sizes, 0.0)[0]]
        assert len(line) <= limit
    while len(line):
        drawn_ids += [item.job.id for item in line.take(sizes, 0.0)[0]]
    assert sorted(drawn_ids) == sorted(accepted)


def test_what_could_not_be_done_in_time_is_not_let_in() -> None:
    line, clock = queue(seconds=2.0)
    line.add(job("first", deadline=5.0))
    line.add(job("second", deadline=5.0))
    with pytest.raises(QueueFull, match=r"done in 6\.0 s.* in 5\.0 s") as raised:
        line.add(job("third", deadline=5.0))
    assert raised.value.retry_after == pytest.approx(1.0)
    clock.advance(3.5)
    assert [item.job.id for item in line.expired()] == ["first", "second"]
    assert len(line) == 0


def test_an_empty_queue_takes_a_job_whatever_was_measured() -> None:
    """The measured time may be of a bad moment: without anybody ahead, trying costs nothing but the
    try."""
    line, _ = queue(seconds=100.0)
    line.add(job(deadline=1.0))
    assert len(line) == 1


def test_retry_after_is_half_the_queues_work() -> None:
    line, _ = queue(limit=4, seconds=3.0)
    for number in range(4):
        line.add(job(str(number)))
    with pytest.raises(QueueFull, match="4 pictures") as raised:
        line.add(job("late"))
    assert raised.value.retry_after == pytest.approx(6.0)


def test_the_window_ends_with_company_or_patience() -> None:
    line, clock = queue()
    line.add(job("a"))
    assert line.take((1, 2), 1.0) == ([], 1.0)
    clock.advance(0.75)
    assert line.take((1, 2), 1.0) == ([], 0.25)
    clock.advance(0.25)
    assert [item.job.id for item in line.take((1, 2), 1.0)[0]] == ["a"]
    line.add(job("b"))
    line.add(job("c"))
    assert [item.job.id for item in line.take((1, 2), 1.0)[0]] == ["b", "c"]
    line.add(job("alone", profile=True))
    assert line.take((1, 2), 1.0)[1] == 0.0


def test_what_died_comes_first_and_alone() -> None:
    line, _ = queue()
    for name in ("a", "b"):
        line.add(job(name))
    died = line.take((1, 2), 0.0)[0]
    line.add(job("c"))
    for item in died:
        item.deaths = 1
    line.put_back(died)
    order = [[item.job.id for item in line.take((1, 2), 0.0)[0]] for _ in range(3)]
    assert order == [["a"], ["b"], ["c"]]


def test_service_times_follow_what_is_measured() -> None:
    times = ServiceTime()
    assert times.of(job()) is None
    times.learn_from(certificate())
    assert times.of(job()) == pytest.approx(1.0)
    for _ in range(30):
        times.learn(job(steps=20), batch=2, seconds=8.0)
    assert times.of(job(steps=20)) == pytest.approx(4.0, rel=1e-3)


@given(st.integers(1, 200), st.integers(0, 20))
def test_previews_are_spread_and_never_the_last_step(total: int, count: int) -> None:
    marks = preview_steps(total, count)
    assert len(marks) <= count
    assert all(0 < mark < total for mark in marks)
    if count and total > count + 1:
        gaps = [
            later - earlier for earlier, later in zip((0, *marks), (*marks, total), strict=True)
        ]
        assert len(marks) == count
        assert max(gaps) - min(gaps) <= 2  # two roundings


@given(st.tuples(st.integers(8, 2048), st.integers(8, 2048)))
def test_snapping_keeps_what_is_listed_and_prefers_the_shape(size: tuple[int, int]) -> None:
    sizes = ((512, 512), (1024, 1024), (768, 512), (512, 768))
    chosen = nearest_size(size, sizes)
    assert chosen in sizes
    assert nearest_size(chosen, sizes) == chosen
    if size[0] == size[1]:
        assert chosen[0] == chosen[1]
    assert nearest_size((size[1], size[0]), tuple((h, w) for w, h in sizes)) == (
        chosen[1],
        chosen[0],
    )


def test_steps_snap_to_the_nearest_and_guidance_to_what_ran() -> None:
    assert [nearest_steps(steps, (10, 20, 30)) for steps in (1, 14, 15, 16, 99)] == [
        10,
        10,
        20,
        20,
        30,
    ]
    assert fitted(job(guidance=3.0), certificate(guidance=("unguided",)), "snap").guidance is None
    with pytest.raises(Refused, match="strength"):
        fitted(job(strength=0.5), certificate(), "snap")
    with pytest.raises(Refused, match="strength is 0"):
        fitted(job(image=b"x", strength=0.0), certificate(img2img=True), "snap")
    with pytest.raises(
        Refused, match=r"of 10 steps that leaves none to draw\. It must be 0\.1 or more"
    ):
        fitted(job(image=b"x", strength=0.09, steps=10), certificate(img2img=True), "snap")
    assert (
        fitted(job(image=b"x", strength=0.1, steps=10), certificate(img2img=True), "snap").strength
        == 0.1
    )


def test_the_certificate_covers_every_combination_once() -> None:
    offered = Offered(
        sizes=((64, 64), (96, 64)),
        steps=(10, 20),
        batches=(1, 2),
        modes=("text2img", "img2img"),
        branches=("guided", "unguided"),
        buckets=(6, 24),
    )
    listed = kinds(offered)
    assert len(listed) == len(set(listed)) == 2 * 2 * 2 * 2 * 2 + 2 * 2
    for size in offered.sizes:
        for steps in offered.steps:
            assert any((kind.width, kind.height) == size and kind.steps == steps for kind in listed)
    assert Kind("img2img", 96, 64, 2, "unguided", 3, 24) in listed


@given(st.integers(1, 100))
def test_batch_sizes_hold_one_and_the_most(most: int) -> None:
    sizes = batch_sizes(most)
    assert {1, most} <= set(sizes)
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(sizes))


def test_a_batch_that_takes_longer_than_one_by_one_is_not_used() -> None:
    single = certificate().entries[0]
    two = msgspec.structs.replace(single, batch=2, second_seconds=1.4)
    four = msgspec.structs.replace(single, batch=4, second_seconds=4.4)
    paying, lost = paying_batches((single, two, four), (1, 2, 4))
    assert paying == (1, 2)
    assert lost == [(4, pytest.approx(1.1))]


def test_a_picture_takes_as_long_as_the_batch_that_it_may_be_drawn_in() -> None:
    line, clock = queue(seconds=2.0)
    line.add(job("first", deadline=9.0), together=2)
    with pytest.raises(QueueFull, match=r"done in 6\.0 s"):
        line.add(job("second", deadline=5.0), together=2)
    clock.advance(6.0)
    assert line.expired() == []
    assert [item.job.id for item in line.expired(together=2)] == ["first"]
