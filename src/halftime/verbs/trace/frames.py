"""Which line of Python the host was in: frames around moments, and the idle time of each frame."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from halftime.verbs.trace.device import Union
from halftime.verbs.trace.read import FRAME, NONE, Events, Ints, Trace, distinct

STACK_DEPTH = 8
_LINE = re.compile(r"\.py\(\d+\): ")
# Frames of torch itself say nothing about whose fault a wait or a gap is.
_INTERNAL = re.compile(
    r"(^|[/\\])torch[/\\]|(^|[/\\])(contextlib|_tensor|threading|functools)\.py|module\.py\(|importlib"
)


class FrameIdle(NamedTuple):
    """Idle time of the device while the host was in one frame and in none that it called."""

    stack: tuple[str, ...]  # innermost first
    start: int  # of the frame, in nanoseconds
    idle: int  # nanoseconds


def frames_of(trace: Trace) -> Events:
    """Python frames of users and libraries, without torch's own."""
    host = trace.host
    lines = trace.named(host, _LINE) & ~trace.named(host, _INTERNAL)
    return host.where((host.kind == FRAME) & lines)


def stacks(trace: Trace, calls: Ints) -> list[tuple[str, ...]]:
    """For each runtime call the Python frames around it, innermost first."""
    runtime, frames = trace.runtime, frames_of(trace)
    moments = np.sort(runtime.start[calls])
    # Most frames contain none of the calls.
    around = np.searchsorted(moments, frames.end) > np.searchsorted(moments, frames.start)
    frames = frames.where(around)
    result: list[tuple[str, ...]] = []
    # thread -> frames by end, the innermost last
    open_frames: dict[int, list[tuple[int, str]]] = defaultdict(list)
    opened = 0
    for at in calls.tolist():
        moment, thread = int(runtime.start[at]), int(runtime.thread[at])
        while opened < len(frames) and frames.start[opened] <= moment:
            stack = open_frames[int(frames.thread[opened])]
            while stack and stack[-1][0] <= frames.start[opened]:
                stack.pop()
            stack.append((int(frames.end[opened]), trace.names[frames.name[opened]]))
            opened += 1
        own = [name for end, name in open_frames[thread] if end >= runtime.end[at]]
        result.append(tuple(own[::-1][:STACK_DEPTH]))
    return result


def idle_by_frame(
    trace: Trace, frames: Events, start: Ints, end: Ints, thread: Ints
) -> list[FrameIdle]:
    """The idle intervals divided among the frames that the host was in, moment by moment.

    Intervals are disjoint and in order, each with the thread whose launch ended it. What no frame
    covers is left out.
    """
    result: list[FrameIdle] = []
    for number in distinct(thread[thread != NONE]):
        own = thread == number
        idle = Union(start[own], end[own], np.flatnonzero(own))
        here = frames.where(frames.thread == number)
        total = idle.within(here.start, here.end)
        result += _own_idle(trace.names, here.where(total > 0), total[total > 0])
    return result


def _own_idle(names: Sequence[str], frames: Events, total: Ints) -> Iterator[FrameIdle]:
    """Each frame's idle time without that of the frames that it called."""
    own = total.copy()
    parents: list[int] = []
    parent_of = [NONE] * len(frames)
    starts, ends = frames.start.tolist(), frames.end.tolist()
    for at, begin in enumerate(starts):
        while parents and ends[parents[-1]] <= begin:
            parents.pop()
        if parents:
            parent_of[at] = parents[-1]
            own[parents[-1]] -= total[at]
        parents.append(at)
    for at in np.flatnonzero(own > 0).tolist():
        stack = []
        frame = at
        while frame != NONE:
            stack.append(names[frames.name[frame]])
            frame = parent_of[frame]
        yield FrameIdle(tuple(stack), starts[at], int(own[at]))
