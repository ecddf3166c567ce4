"""`halftime run`: a script runs as it is, and the first pipeline that it calls is profiled."""

from __future__ import annotations

import functools
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import msgspec
from diffusers import DiffusionPipeline

from halftime.base.errors import BadFile, BadInput
from halftime.base.progress import Progress, silent
from halftime.base.source import in_a_sentence
from halftime.pipeline.change import patched
from halftime.pipeline.components import with_subclasses
from halftime.pipeline.inputs import again
from halftime.records import Session
from halftime.verbs.profile.call import quiet_progress_bars
from halftime.verbs.profile.inplace import Profiling, profiling

Call = Callable[..., object]
TAKES = "_halftime_takes"  # on a class's call that reports to us


@dataclass
class FirstPipeline:
    """Takes the first pipeline that is called, and calls it again as often as `runs` says."""

    runs: int
    progress: Progress
    undo: ExitStack = field(default_factory=ExitStack)
    profiled: Profiling | None = None

    def called(self, original: Call, pipeline: object, *args: object, **kwargs: object) -> object:
        """Any pipeline's call: of the first it is profiled, of the rest nothing is done."""
        if self.profiled is not None:
            return original(pipeline, *args, **kwargs)
        self.profiled = self.undo.enter_context(profiling(pipeline))
        again_with = {name: again(value) for name, value in kwargs.items()}
        self.progress("the script's first call", 0, 1 + self.runs)
        call = type(pipeline).__call__
        result = call(pipeline, *args, **kwargs)
        for number in range(self.runs):
            self.progress("the same call again", 1 + number, 1 + self.runs)
            with quiet_progress_bars(pipeline):
                call(pipeline, *args, **{name: again(value) for name, value in again_with.items()})
        if self.runs:
            self.undo.close()
        return result


def run_script(
    script: Path | str,
    arguments: Sequence[str] = (),
    *,
    runs: int = 3,
    progress: Progress = silent,
) -> Session:
    """Run a Python script as `python SCRIPT ARGUMENTS` would, and profile its first pipeline.

    The script's first call of a pipeline is followed by `runs` more of the same, for a steady
    state; with `runs` 0 all calls of that pipeline that the script makes are measured, and no more.
    Raises BadFile for a script that is not there, BadInput where it calls no pipeline, and what the
    script raises before its first call has ended.
    """
    path = Path(script)
    if not path.is_file():
        raise BadFile(f"there is no script {path}.")
    if runs < 0:
        raise BadInput(f"runs is {runs}; it must be 0 or more.")
    first = FirstPipeline(runs, progress)
    failure = ""
    with first.undo:
        try:
            with _calls_taken(first.called), _as_python(path, arguments):
                runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            failure = f"exit code {end.code}" if end.code else ""
        except Exception as error:
            if first.profiled is None or not first.profiled.calls:
                raise
            failure = in_a_sentence(error).rstrip(".")
    return _session(path, first, failure)


def _session(path: Path, first: FirstPipeline, failure: str) -> Session:
    if first.profiled is None or not first.profiled.calls:
        ended = f" (it ended with {failure})" if failure else ""
        raise BadInput(
            f"{path} called no diffusers pipeline to its end{ended}, so there is nothing to tell."
        )
    session = first.profiled.session
    later = (f"the script failed after what was measured: {failure}",) if failure else ()
    return msgspec.structs.replace(session, notes=(*session.notes, *later))


@contextmanager
def _as_python(path: Path, arguments: Sequence[str]) -> Iterator[None]:
    """`sys.argv` and the folder of imports as the script expects them."""
    with (
        patched(sys, "argv", [str(path), *arguments]),
        patched(sys, "path", [str(path.resolve().parent), *sys.path]),
    ):
        yield


@contextmanager
def _calls_taken(called: Call) -> Iterator[None]:
    """Every call of any pipeline goes through `called`, also of classes that are defined later."""
    with ExitStack() as undo:
        bases: list[type] = [
            DiffusionPipeline,
            getattr(diffusers, "ModularPipeline", DiffusionPipeline),
        ]
        for base in dict.fromkeys(bases):
            for subclass in with_subclasses(base):
                _take(subclass, called, undo)
            undo.enter_context(patched(base, "__init_subclass__", _taking(base, called, undo)))
        yield


def _taking(base: type, called: Call, undo: ExitStack) -> object:
    def init_subclass(kind: Any, /, **options: object) -> None:
        super(base, kind).__init_subclass__(**options)  # type: ignore[arg-type]
        _take(kind, called, undo)

    return classmethod(init_subclass)


def _take(kind: type, called: Call, undo: ExitStack) -> None:
    original = vars(kind).get("__call__")
    if original is None or getattr(original, TAKES, False):
        return

    @functools.wraps(original)
    def taking(self: object, *args: object, **kwargs: object) -> object:
        return called(original, self, *args, **kwargs)

    vars(taking)[TAKES] = True
    undo.enter_context(patched(kind, "__call__", taking))
