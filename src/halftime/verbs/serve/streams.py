"""The server on a GPU's time line: the host keeps near the device, and previews are computed beside
the pictures.

A host queues a whole loop long before the device has run it. Without a pace a client who leaves, a
deadline and a sign of life would be noticed when all is queued, and a preview would come with the
picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MOST_AHEAD = 2  # steps: enough that a busy device never waits for the host
_PICTURES, _PREVIEWS = -1, 0  # priorities of streams; CUDA's default one has the lowest, 0


class RunAhead:
    """Lets the host of one call queue at most MOST_AHEAD steps that the device has not run."""

    def __init__(self) -> None:
        self._events: deque[torch.cuda.Event] = deque()

    def step(self, device: torch.device) -> None:
        """After a step was queued: wait for the one before the last. On a device that works while
        the host waits there is nothing to wait for."""
        if device.type != "cuda":
            return
        self._events.append(queued_so_far(device))
        if len(self._events) > MOST_AHEAD:
            self._events.popleft().synchronize()


def queued_so_far(device: torch.device) -> torch.cuda.Event:
    """An event behind all that this thread has queued. Waiting for it sleeps, and leaves the core
    to others."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


def pictures_first(device: torch.device) -> None:
    """From now on what this thread queues goes before previews: in a stream of its own, since
    nothing can be put behind the default one."""
    if device.type != "cuda":
        return
    stream = torch.cuda.Stream(device, priority=_PICTURES)
    stream.wait_stream(torch.cuda.current_stream(device))
    torch.cuda.set_stream(stream)


class Aside:
    """A stream behind the pictures', for the thread of the previews; on the CPU that thread
    alone."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device, priority=_PREVIEWS) if on_cuda else None
        self._pinned = torch.empty(0, dtype=torch.uint8)

    def on_host(
        self, compute: Callable[[], Tensor | None], ready: torch.cuda.Event | None
    ) -> Tensor | None:
        """What `compute` gives, on the host, after `ready`; good until the next call. Waits for
        nothing else, whatever is queued for the pictures."""
        if self._stream is None:
            return compute()
        with torch.cuda.stream(self._stream):
            if ready is not None:
                self._stream.wait_event(ready)
            result = compute()
            if result is None:
                return None
            if self._pinned.shape != result.shape:
                self._pinned = pinned_like(result)
            self._pinned.copy_(result, non_blocking=True)
            event = queued_so_far(result.device)
        event.synchronize()
        return self._pinned


def pinned_like(tensor: Tensor) -> Tensor:
    """Memory of the host that the device writes to while the host goes on."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)
