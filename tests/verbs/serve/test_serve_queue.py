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
from halftime.verbs.serve.messages import Job, QueueFull, Refused
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
    rates = {} if seconds is None else {(64, 64): seconds / 10}
    line = Queue(limit, lambda: clock.now, ServiceTime(rates, dict(rates)))
    line.promises.chance = lambda: 0.0
    return line, clock


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
    with pytest.raises(QueueFull, match=r"2 pictures wait: all would be done in 6\.0 s") as raised:
        line.add(job("third", deadline=5.0))
    assert raised.value.retry_after == pytest.approx(4.0)  # the whole wait
    clock.advance(3.5)
    assert [item.job.id for item in line.expired()] == ["first"]  # the last one is tried
    clock.advance(2.0)
    assert [item.job.id for item in line.expired()] == ["second"]
    assert len(line) == 0


def test_an_empty_queue_takes_a_job_whatever_was_measured() -> None:
    """The measured time may be of a bad moment: without anybody ahead, trying costs nothing but the
    try."""
    line, _ = queue(seconds=100.0)
    line.add(job(deadline=1.0))
    assert len(line) == 1


@given(st.floats(0.01, 3.0), st.floats(0.01, 50.0), st.integers(1, 16))
def test_an_idle_server_takes_any_single_picture(
    deadline: float, seconds: float, most_batch: int
) -> None:
    """However short the deadline is beside what was measured: it is let in, not thrown out of the
    queue, and drawn."""
    line, _ = queue(seconds=seconds)
    line.add(job(deadline=deadline))
    assert line.expired() == []
    assert [item.job.id for item in line.take(batch_sizes(most_batch), 0.0)[0]] == ["a"]


def test_a_batch_is_no_larger_than_its_deadlines_allow() -> None:
    line, _ = queue(seconds=2.0)
    for number in range(4):
        line.add(job(str(number), deadline=9.0))
    assert len(line.take((1, 2, 4), 0.0)[0]) == 4
    for number in range(3):
        line.add(job(str(number), deadline=7.0))
    assert len(line.take((1, 2, 4), 0.0)[0]) == 2


def requests(count: int, client: str = "", **changes: object) -> list[Job]:
    return [job(f"{client}{index}", client=client, **changes) for index in range(count)]


@pytest.mark.parametrize(("weight", "drawn"), [(1.0, "ababababab"), (3.0, "aaabaaabaaab")])
def test_a_weight_is_turns_for_one_of_another(weight: float, drawn: str) -> None:
    line, _ = queue(seconds=1.0, limit=40)
    line.add_all(requests(9, "b"))
    line.add_all(requests(9, "a", weight=weight))
    order = [line.take((1,), 0.0)[0][0].job.client for _ in drawn]
    assert sorted(order[:4]) == sorted(drawn[:4])
    assert order.count("a") == drawn.count("a")


@pytest.mark.parametrize(
    ("count", "deadline", "most"), [(9, None, 8), (6, 10.0, 5), (8, 3.0, 1), (9, 1.0, 1)]
)
def test_what_can_never_fit_is_refused_and_not_told_to_come_back(
    count: int, deadline: float | None, most: int
) -> None:
    line, clock = queue(limit=8, seconds=2.0)
    for _ in range(2):  # also beside others
        with pytest.raises(Refused, match=f"Ask for {most} at most") as raised:
            line.add_all(requests(count, deadline=deadline and clock.now + deadline))
        assert raised.value.param == "n"
        line.add(job("other"))
    line, _ = queue(limit=8, seconds=2.0)
    line.add_all(requests(most, deadline=deadline))


def test_a_bad_moment_is_no_reason_to_refuse_for_ever() -> None:
    line, _ = queue(limit=8, seconds=2.0)
    for _ in range(20):
        line.times.learn(job(), batch=1, seconds=50.0)
    line.add_all(requests(5, deadline=10.0))  # an idle server tries
    with pytest.raises(QueueFull):
        line.add_all(requests(5, "late", deadline=10.0))


def test_retry_after_is_the_whole_wait_and_grows_with_those_who_were_refused() -> None:
    line, _ = queue(limit=4, seconds=3.0)
    for number in range(4):
        line.add(job(str(number)))
    waits = []
    for _ in range(6):
        with pytest.raises(QueueFull, match="4 pictures") as raised:
            line.add(job("late"), [job("running")])
        waits.append(raised.value.retry_after)
    # the queue and what is drawn; then also the ones before; nobody is told more than twice a queue
    assert waits == pytest.approx([15.0, 18.0, 21.0, 24.0, 27.0, 27.0])
    with pytest.raises(QueueFull) as raised:
        line.add(job("late"), [job("running")], workers=2)
    assert raised.value.retry_after == pytest.approx(13.5)
    line.promises.chance = lambda: 1.0
    with pytest.raises(QueueFull) as raised:
        line.add(job("late"), [job("running")])
    assert raised.value.retry_after == pytest.approx(27.0 * 1.25)


def test_one_clients_many_are_drawn_in_turns_with_others() -> None:
    line, _ = queue(limit=16, seconds=1.0)
    line.add_all(requests(5, "many"))
    line.add_all(requests(1, "few"))
    line.add_all(requests(2, "some"))
    order = [line.take((1,), 0.0)[0][0].job.id for _ in range(8)]
    assert order == ["many0", "few0", "some0", "many1", "some1", "many2", "many3", "many4"]


def test_turns_are_of_work_and_not_of_pictures() -> None:
    line, _ = queue(limit=16, seconds=1.0)
    line.add_all(requests(2, "long", steps=30))
    line.add_all(requests(6, "short", steps=10))
    order = [line.take((1,), 0.0)[0][0].job.client for _ in range(8)]
    assert order == ["short", "short", "long", "short", "short", "short", "long", "short"]


def test_nobody_who_was_let_in_is_made_late_by_a_newcomer() -> None:
    line, _ = queue(limit=16, seconds=1.0)
    line.add_all(requests(4, "many", deadline=4.5))
    with pytest.raises(QueueFull):
        line.add_all(requests(1, "few", deadline=60.0))  # it would be second
    line.take((1, 4), 0.0)
    line.add_all(requests(1, "few", deadline=60.0))


@pytest.mark.parametrize("limit", [12, 100])
def test_a_client_that_wants_ten_gets_its_share_beside_those_that_want_one(limit: int) -> None:
    """Forty clients come back at once whenever they are answered or may; the queue is bounded by
    its limit in one case, by the deadline of 12 s in the other."""
    line, clock = queue(limit=limit, seconds=1.0)
    wants = {f"few{number}": 1 for number in range(40)} | {"many": 10}
    comes = dict.fromkeys(wants, 0.0)
    drawn: dict[str, int] = dict.fromkeys(wants, 0)
    for _ in range(200):
        for client, count in wants.items():
            waiting = sum(item.job.client == client for item in line.items)
            if comes[client] > clock.now or waiting:
                continue
            try:
                line.add_all(requests(count, client, deadline=clock.now + 12.0))
            except QueueFull as full:
                comes[client] = clock.now + full.retry_after
        assert not line.expired()
        (item,), _ = line.take((1,), 0.0)
        drawn[item.job.client] += 1
        clock.advance(1.0)
    assert drawn["many"] >= 10
    assert min(drawn.values()) >= 1


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
