"""One process of one side: it loads the pipeline, says what it is, and calls when it is asked to.

`python -m halftime.verbs.gate.worker` reads a task and then orders, one JSON a line, from standard
input, and answers each with one line. It ends when its standard input does, so that none is left
behind by a command that was killed. It runs in whatever environment its side is.
"""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from halftime.base.errors import HalftimeError
from halftime.base.source import in_a_sentence
from halftime.records import Workload
from halftime.records.base import Record

if TYPE_CHECKING:
    from halftime.pipeline.load import LoadedPipeline


class WorkerTask(Record, frozen=True, kw_only=True):
    """What to load."""

    model: str | None
    workload: Workload
    recipe: str | None = None


class WorkerOrder(Record, frozen=True, kw_only=True):
    """What to do: 'call', 'count', or 'draw' `pictures` into `folder`."""

    order: str
    folder: str = ""
    pictures: int = 0


class WorkerAnswer(Record, frozen=True, kw_only=True):
    """What came of it; `error` says why nothing did."""

    error: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = msgspec.field(default_factory=dict)
    facts: dict[str, str] = msgspec.field(default_factory=dict)
    counts: dict[str, float] = msgspec.field(default_factory=dict)
    details: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    skipped: dict[str, str] = msgspec.field(default_factory=dict)


def serve(task: WorkerTask, orders: TextIO, answers: TextIO) -> None:
    """Load, call once, then answer orders until there are no more."""
    from halftime.fix.apply import starts_on_host
    from halftime.pipeline.load import load
    from halftime.verbs.gate.facts import facts_of
    from halftime.verbs.profile.call import quiet_progress_bars

    loaded = load(task.model, task.workload, on_host=starts_on_host(task.recipe))
    with quiet_progress_bars(loaded.pipeline), _fixed(loaded, task.recipe):
        first = _call(loaded, task.workload)
        facts = facts_of(loaded) | _fixes(task.recipe)
        _say(answers, WorkerAnswer(seconds=first.seconds, facts=facts))
        for line in orders:
            order = msgspec.json.decode(line, type=WorkerOrder)
            try:
                answer = _obey(loaded, task.workload, order)
            except HalftimeError as error:
                answer = WorkerAnswer(error=str(error))
            _say(answers, answer)


def _obey(loaded: LoadedPipeline, workload: Workload, order: WorkerOrder) -> WorkerAnswer:
    if order.order == "call":
        return _call(loaded, workload)
    if order.order == "count":
        from halftime.verbs.gate.counting import count

        counts = count(loaded, workload)
        return WorkerAnswer(counts=counts.values, details=counts.details, skipped=counts.skipped)
    return _draw(loaded, workload, order)


def _call(loaded: LoadedPipeline, workload: Workload) -> WorkerAnswer:
    from halftime.base.ledger import ledger
    from halftime.pipeline.device import device_of
    from halftime.verbs.profile.call import timed_call
    from halftime.verbs.profile.clock import clock_for

    measured = timed_call(loaded.pipeline, workload, clock_for(device_of(loaded.pipeline)))
    rows = ledger([measured])
    return WorkerAnswer(
        seconds=measured.run.wall_seconds, stages={row.stage: row.seconds for row in rows}
    )


def _draw(loaded: LoadedPipeline, workload: Workload, order: WorkerOrder) -> WorkerAnswer:
    from halftime.verbs.verify.pictures import write_folder
    from halftime.verbs.verify.render import prompt_set, render

    begun = time.perf_counter()
    prompts = prompt_set(workload, order.pictures)
    write_folder(Path(order.folder), render(loaded.pipeline, workload, prompts, "gate"))
    return WorkerAnswer(seconds=time.perf_counter() - begun)


def _fixed(loaded: LoadedPipeline, recipe: str | None) -> AbstractContextManager[object]:
    if recipe is None:
        return nullcontext()
    from halftime.fix import applied

    return applied(loaded.pipeline, Path(recipe), probe=False)


def _fixes(recipe: str | None) -> dict[str, str]:
    if recipe is None:
        return {}
    from halftime.fix.apply import choose, read_plan

    return {"fixes": ", ".join(choice.fix.name for choice in choose(read_plan(recipe)))}


def _say(answers: TextIO, answer: WorkerAnswer) -> None:
    answers.write(msgspec.json.encode(answer).decode() + "\n")
    answers.flush()


def main() -> None:
    """Answer on what was standard output; what a pipeline prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        orders = os.fdopen(0, encoding="utf-8", closefd=False)  # whatever the system's words are in
        task = msgspec.json.decode(orders.readline(), type=WorkerTask)
        serve(task, orders, answers)
    except Exception as error:
        reason = str(error) if isinstance(error, HalftimeError) else in_a_sentence(error)
        with contextlib.suppress(OSError):
            _say(answers, WorkerAnswer(error=reason))
    os._exit(0)  # unloading torch and diffusers takes a second


if __name__ == "__main__":
    main()
