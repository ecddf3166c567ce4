"""Turns of one worker: who is overtaken, who leaves, who fails, and what is drawn whole."""

from __future__ import annotations

import gc
import io
import itertools
import queue
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import pytest
from serve_helpers import job
from test_serve_studio import picture, tiny_for

from halftime.base.errors import OutOfMemory
from halftime.records.serve import Certificate
from halftime.upstream import pytorch
from halftime.verbs.serve import step_drawing, step_proof
from halftime.verbs.serve.messages import EngineSettings, Final, Job, JobFailed, Preview, Started
from halftime.verbs.serve.preview import Previews, Unpacker
from halftime.verbs.serve.step_drawing import Outcome, Request, StepDrawing, StepPicture, run_to_end
from halftime.verbs.serve.step_loop import Loop
from halftime.verbs.serve.step_proof import Proof, prove
from halftime.verbs.serve.step_worker import StepServing
from halftime.verbs.serve.stepping import Watch
from halftime.verbs.serve.studio import Studio, open_studio
from halftime.verbs.serve.warmup import graphs
from halftime.verbs.serve.watching import Dynamo
from halftime.verbs.serve.wire import Channel, DrawTask, StepsTaken

SETTINGS = EngineSettings(
    model="serve_models:sdxl", steps=(4,), sizes=((32, 32),), tiny_vae=None, inpaint=False
)
OFFERED = Certificate(
    sizes=((32, 32),), steps=(4,), guidance=("guided",), batch_sizes=(1, 2), pipeline="x"
)


@cache
def studio(model: str = "sdxl") -> Studio:
    return open_studio(msgspec.structs.replace(SETTINGS, model=f"serve_models:{model}"))


def small(name: str, steps: int = 2, **changes: object) -> Job:
    return job(name, **{"width": 32, "height": 32, "steps": steps, **changes})


class Notes:
    """What was reported, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pictures: dict[str, StepPicture] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.errors: list[Exception] = []

    def outcome(self, request: Request) -> Outcome:
        return self.outcomes.get(request.job.id, "waited for")

    def started(self, request: Request) -> None:
        self.lines.append(f"{request.job.id} starts")

    def stepped(self, requests: Sequence[Request]) -> None:
        self.lines.append("+".join(request.job.id for request in requests))

    def finished(self, request: Request, picture: StepPicture) -> None:
        self.lines.append(f"{request.job.id} ends")
        self.pictures[request.job.id] = picture

    def failed(self, request: Request, error: Exception) -> None:
        self.lines.append(f"{request.job.id} fails")
        self.errors.append(error)

    def left(self, request: Request, outcome: Outcome) -> None:
        self.lines.append(f"{request.job.id} {outcome}")


def drawing(**changes: object) -> tuple[StepDrawing, Notes]:
    notes = Notes()
    turns = StepDrawing(studio(), notes, **changes)  # type: ignore[arg-type]
    turns.times.steps[32, 32], turns.times.after[32, 32] = 1.0, 1.0
    turns.times.learn = lambda *args: None  # type: ignore[method-assign]
    return turns, notes


def own(one: Job) -> np.ndarray:
    return studio().draw([one], Watch([one], lambda: [one])).pictures[0]


def test_a_request_is_overtaken_and_finishes_right() -> None:
    turns, notes = drawing()
    turns.add(small("long", 3))
    turns.turn()
    turns.add(small("short", 1, seed=2))
    run_to_end(turns)
    assert notes.lines == [
        *("long starts", "long"),
        *("short starts", "short", "short ends"),
        *("long", "long", "long ends"),
    ]
    np.testing.assert_array_equal(notes.pictures["long"].pixels, own(small("long", 3)))
    taken = notes.pictures["long"]
    assert taken.aside_seconds > 0
    assert sum(taken.stages.values()) == pytest.approx(taken.compute_seconds)


def test_the_batch_is_formed_anew_before_each_pass() -> None:
    turns, notes = drawing(sizes=(1, 2))
    turns.add(small("a", 2))
    turns.turn()
    turns.add(small("b", 1))
    run_to_end(turns)
    assert [line for line in notes.lines if " " not in line] == ["a", "b+a"]
    assert notes.pictures["a"].own_seconds < notes.pictures["a"].compute_seconds
    assert notes.pictures["a"].batch_size == 2


@pytest.mark.parametrize("outcome", ["cancelled", "late"])
def test_between_two_steps_a_request_is_let_go(outcome: Outcome) -> None:
    turns, notes = drawing()
    turns.add(small("a", 3))
    turns.turn()
    notes.outcomes["a"] = outcome
    run_to_end(turns)
    assert notes.lines == ["a starts", "a", f"a {outcome}"]


@pytest.mark.parametrize("outcome", ["cancelled", "late"])
def test_who_is_let_go_gives_its_memory_back_and_its_room_to_the_next(outcome: Outcome) -> None:
    turns, notes = drawing(memory_bytes=1)
    turns.add(small("gone", 3))
    turns.turn()
    loop = turns.requests["gone"].loop
    assert loop is not None
    held = [weakref.ref(loop), weakref.ref(loop.latents), weakref.ref(loop.scheduler)]
    del loop
    turns.add(small("next", 1))
    notes.outcomes["gone"] = outcome
    turns.turn()
    gc.collect()
    assert [reference() for reference in held] == [None] * 3
    assert "next starts" in notes.lines


def test_where_the_memory_is_full_nobody_else_is_begun() -> None:
    turns, notes = drawing(memory_bytes=1)
    turns.add(small("long", 2))
    turns.turn()
    turns.add(small("short", 1))
    run_to_end(turns)
    assert notes.lines.index("long ends") < notes.lines.index("short starts")


def test_what_starts_from_a_picture_is_drawn_whole() -> None:
    turns, notes = drawing()
    edit = small("edit", 2, image=picture(), strength=1.0)
    turns.add(edit)
    run_to_end(turns)
    assert notes.lines == ["edit starts", "edit ends"]
    np.testing.assert_array_equal(notes.pictures["edit"].pixels, own(edit))


def test_one_that_cannot_be_drawn_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_drawing.advance

    def advance(
        pipeline: object, loops: Sequence[step_drawing.Loop], graphs: object = None
    ) -> object:
        if any(loop.call["prompt"] == ["bad"] for loop in loops):
            raise RuntimeError("no")
        return real(pipeline, loops)  # type: ignore[arg-type]

    monkeypatch.setattr(step_drawing, "advance", advance)
    turns, notes = drawing(sizes=(1, 2))
    turns.add(small("a", 1))
    turns.add(small("bad", 1, prompt="bad"))
    run_to_end(turns)
    assert {"a ends", "bad fails"} <= set(notes.lines)
    np.testing.assert_array_equal(notes.pictures["a"].pixels, own(small("a", 1)))


@pytest.mark.parametrize("odd", ["cannot begin", "has another shape"])
def test_a_pass_has_a_size_that_was_proven_though_one_falls_out(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four that share a pass, three are left: a pass of three was never compared, and where the
    denoiser is compiled it would be compiled after ready."""
    real = step_drawing.begin

    def begin(pipeline: object, scheduler: object, call: Mapping[str, object]) -> Loop:
        loop = real(pipeline, scheduler, call)  # type: ignore[arg-type]
        if call["prompt"] != ["odd"]:
            return loop
        if odd == "cannot begin":
            raise RuntimeError("no")
        return replace(loop, shape="another")

    monkeypatch.setattr(step_drawing, "begin", begin)
    turns, notes = drawing(sizes=(1, 2, 4))
    for name in ("a", "odd", "b", "c"):
        turns.add(small(name, 1, prompt=name))
    run_to_end(turns)
    passes = [line.count("+") + 1 for line in notes.lines if " " not in line]
    assert passes[0] == 2
    assert {*passes} <= {1, 2, 4}
    assert {"a", "b", "c"} <= {*notes.pictures}


def test_where_memory_runs_out_each_takes_its_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_drawing.advance

    def advance(
        pipeline: object, loops: Sequence[step_drawing.Loop], graphs: object = None
    ) -> object:
        if len(loops) > 1:
            raise OutOfMemory("too much")
        return real(pipeline, loops)  # type: ignore[arg-type]

    monkeypatch.setattr(step_drawing, "advance", advance)
    turns, notes = drawing(sizes=(1, 2))
    turns.add(small("a", 1))
    turns.add(small("b", 1))
    run_to_end(turns)
    assert not notes.errors
    assert set(notes.pictures) == {"a", "b"}


def test_previews_come_between_steps_and_of_every_request() -> None:
    shown: list[Preview] = []
    previews = Previews(tiny_for(studio()), shown.append, Unpacker(studio().pipeline))
    previews.start()
    turns, notes = drawing(previews=previews)
    turns.add(small("a", 2, previews=1))
    turns.turn()
    previews.flush()
    turns.add(small("b", 1))
    run_to_end(turns)
    assert [(preview.id, preview.step) for preview in shown] == [("a", 1)]
    assert set(notes.pictures) == {"a", "b"}


# ---- the proof before ready


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_proof, "FEW_STEPS", 1)


def nothing(step: str, finished: int, total: int) -> None:
    pass


def test_the_proof_compares_and_compiles_all_that_will_be_needed() -> None:
    opened = studio("compiled")
    proof = prove(opened, OFFERED, nothing)
    assert (proof.refusal, proof.sizes, proof.levels <= 1) == ("", (1, 2), True)
    assert proof.pictures == 4
    before = graphs()
    turns = StepDrawing(opened, Notes(), sizes=proof.sizes, times=proof.times)
    for number, steps in enumerate((3, 1, 2)):
        turns.add(small(str(number), steps))
    run_to_end(turns)
    assert graphs() == before
    assert before.unique_graphs > 0
    pytorch.dynamo_counters()


def test_whatever_is_accepted_after_ready_compiles_nothing() -> None:
    """Every branch and batch size of the certificate, at any steps, beside whom it may be."""
    opened = studio("compiled")
    offered = msgspec.structs.replace(OFFERED, guidance=("guided", "unguided"))
    proof = prove(opened, offered, nothing)
    assert proof.refusal == ""
    dynamo, notes = Dynamo(), Notes()
    turns = StepDrawing(opened, notes, sizes=proof.sizes, times=proof.times)
    kinds = itertools.product((1.0, 5.0), (1, 3, 4))
    for number, (guidance, steps) in enumerate(kinds):
        name = str(number)
        turns.add(small(name, steps, guidance=guidance))
        turns.turn()
        if number % 5 == 0:
            notes.outcomes[name] = "cancelled"
    run_to_end(turns)
    assert dynamo.look() == ()
    assert not notes.errors
    turns.add(small("unlisted", 1, width=96, height=64))  # the look sees what is compiled
    run_to_end(turns)
    assert len(dynamo.look("unlisted")) >= 1


def test_a_pipeline_that_fails_the_proof_is_served_by_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_proof, "grey_levels", lambda one, other: 7)
    proof = prove(studio(), OFFERED, nothing)
    assert "differs by 7 grey levels" in proof.refusal
    certified = proof.certify(OFFERED)
    assert (certified.scheduling, certified.scheduling_why) == ("call", proof.refusal)


def test_a_batch_that_differs_too_much_is_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step_proof._in_turns

    def off(
        opened: Studio, jobs: object, times: object, sizes: Sequence[int], graphs: object
    ) -> object:
        pictures = real(opened, jobs, times, sizes, graphs)  # type: ignore[arg-type]
        return [one ^ 2 for one in pictures] if max(sizes) > 1 else pictures

    monkeypatch.setattr(step_proof, "_in_turns", off)
    assert prove(studio(), OFFERED, nothing).sizes == (1,)


@pytest.mark.parametrize("fix", ["loop-graph", "step-cache", "guidance-interval"])
def test_fixes_that_tie_steps_together_are_refused_by_name(
    fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio(), "fixes", (fix,))
    assert fix in prove(studio(), OFFERED, nothing).refusal


# ---- over a channel


def test_each_request_is_answered_by_itself() -> None:
    channel = Channel(io.BytesIO(), io.BytesIO())
    said: list[object] = []
    channel.send = said.append  # type: ignore[method-assign, assignment]
    ended: list[str] = []
    serving = StepServing.over(
        channel,
        studio(),
        SETTINGS,
        Proof(""),
        None,
        lambda jobs: ended.extend(one.id for one in jobs),
    )
    jobs = (
        small("a", 2),
        small("late", 1, deadline=0.0),
        small("left", 1),
        small("odd", 1, mask=b""),
    )
    channel._cancelled.add("left")
    channel.batches.put(DrawTask(jobs=jobs, waited=(1.0,) * 4, tags=(0.0,) * 4))
    while len(ended) < 4:
        serving.turn()
    with pytest.raises(queue.Empty):
        channel.batches.get_nowait()
    failures = {one.id: one.kind for one in said if isinstance(one, JobFailed)}
    assert failures == {"late": "deadline", "odd": "internal"}
    assert [one.left for one in said if isinstance(one, StepsTaken)] == [{"a": 1}, {"a": 0}]
    (final,) = (one for one in said if isinstance(one, Final))
    assert final.pixels == own(jobs[0]).tobytes()
    assert final.queue_seconds >= 1.0
    assert final.own_seconds == pytest.approx(final.compute_seconds)
    starts = [one.id for one in said if isinstance(one, Started)]
    assert set(starts) == {"a", "odd"}
    assert not channel.cancelled(jobs[2])
