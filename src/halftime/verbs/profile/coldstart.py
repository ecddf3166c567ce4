"""Cold start: a fresh process imports, loads and makes its first picture, each of them timed.

`python -m halftime.verbs.profile.coldstart` is that process; it reads its task from standard input
and answers on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import redirect_stdout

import msgspec

from halftime.base.errors import HalftimeError
from halftime.records import ColdStart, LedgerRow, Record, Workload


class ColdStartTask(Record, frozen=True, kw_only=True):
    """What the fresh process shall do."""

    model: str | None
    workload: Workload


class ColdStartResult(Record, frozen=True, kw_only=True):
    """What it measured, in seconds."""

    import_seconds: float
    load_seconds: float
    first_call_seconds: float
    first_call: tuple[LedgerRow, ...]


def measure(model: str | None, workload: Workload, timeout: float = 1800.0) -> ColdStart:
    """Run one call of `model` in a fresh process. Raises HalftimeError with its last line."""
    begin = time.perf_counter()
    try:
        task = ColdStartTask(model=model, workload=workload)
        output = in_fresh_process("halftime.verbs.profile.coldstart", task, timeout)
    except HalftimeError as error:
        raise HalftimeError(
            f"the cold start failed: {error} Leave it out with --no-cold-start."
        ) from error
    wall = time.perf_counter() - begin
    result = msgspec.json.decode(output, type=ColdStartResult)
    return ColdStart(
        process_seconds=wall,
        import_seconds=result.import_seconds,
        load_seconds=result.load_seconds,
        first_call_seconds=result.first_call_seconds,
        first_call=result.first_call,
    )


def in_fresh_process(module: str, task: Record, timeout: float = 1800.0) -> bytes:
    """What `python -m module` answers to this task. Raises HalftimeError with its last line."""
    try:
        completed = subprocess.run(
            [sys.executable, "-m", module],
            input=msgspec.json.encode(task),
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HalftimeError(f"it did not end within {timeout:g} s.") from error
    if completed.returncode:
        raise HalftimeError(
            (completed.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        )
    return completed.stdout


def run(task: ColdStartTask) -> ColdStartResult:
    """Import, load, call once; each timed."""
    begin = time.perf_counter()
    import diffusers  # noqa: F401  (its import is what is timed)
    import torch  # noqa: F401

    imported = time.perf_counter()
    from halftime.base.ledger import ledger
    from halftime.pipeline.device import device_of
    from halftime.pipeline.load import load
    from halftime.verbs.profile.call import quiet_progress_bars, timed_call
    from halftime.verbs.profile.clock import clock_for

    pipeline = load(task.model, task.workload).pipeline
    loaded = time.perf_counter()
    with quiet_progress_bars(pipeline):
        first = timed_call(pipeline, task.workload, clock_for(device_of(pipeline)))
    return ColdStartResult(
        import_seconds=imported - begin,
        load_seconds=loaded - imported,
        first_call_seconds=first.run.wall_seconds,
        first_call=ledger([first]),
    )


if __name__ == "__main__":
    # What a pipeline prints must not end up in the answer.
    with redirect_stdout(sys.stderr):
        result = run(msgspec.json.decode(sys.stdin.buffer.read(), type=ColdStartTask))
    sys.stdout.buffer.write(msgspec.json.encode(result))
    sys.stdout.buffer.flush()
    os._exit(0)  # unloading torch and diffusers takes a second, and does not belong to a start
