"""Where the denoising loop is: by the pipeline's progress bar, or else by its scheduler's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from halftime.pipeline.change import method_wrapped, subclassed
from halftime.pipeline.components import pipelines_of
from halftime.verbs.audit.sites import Sites

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from halftime.verbs.audit.mode import ShadowDevice

Function = Callable[..., object]


@contextmanager
def loop_watched(pipeline: DiffusionPipeline, device: ShadowDevice) -> Iterator[None]:
    """Let the device's sites know of each denoising loop and step, and count module walks."""
    with ExitStack() as undo:
        for part in pipelines_of(pipeline):
            bar = _watched_bar(device.sites)
            undo.enter_context(subclassed(part, {"progress_bar": bar}))
        for scheduler in _schedulers(pipeline):
            undo.enter_context(method_wrapped(scheduler, "step", _watched_step(device.sites)))
        undo.enter_context(device.steps.walks_counted(device.sites))
        yield


def _schedulers(pipeline: DiffusionPipeline) -> list[object]:
    unique = {
        id(component): component
        for part in pipelines_of(pipeline)
        for component in part.components.values()
        if hasattr(component, "step")
        and (hasattr(component, "timesteps") or hasattr(component, "set_timesteps"))
    }
    return list(unique.values())


def _watched_step(sites: Sites) -> Function:
    """Outside of a progress bar the steps themselves make a loop, which ends with the schedule."""

    def watched(scheduler: object, step: Function, *args: object, **kwargs: object) -> object:
        if sites.step is None:
            sites.begin_loop(barless=True)
        sites.in_scheduler = True
        try:
            result = step(*args, **kwargs)
        finally:
            sites.in_scheduler = False
        if sites.barless:
            sites.next_step()
            timesteps = getattr(scheduler, "timesteps", ())
            if sites.step is not None and sites.step >= len(timesteps):
                sites.end_loop()
        return result

    return watched


def _watched_bar(sites: Sites) -> Function:
    def progress_bar(
        self: object, iterable: object = None, total: int | None = None, **kwargs: object
    ) -> object:
        return _Bar(iterable, total, sites)

    return progress_bar


class _Bar:
    """A progress bar that shows nothing and says where the loop is."""

    def __init__(self, iterable: object, total: int | None, sites: Sites) -> None:
        self._iterable, self._total, self._sites = iterable, total, sites

    def __enter__(self) -> _Bar:
        self._sites.begin_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self._sites.end_loop()

    def update(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._sites.next_step()

    def __len__(self) -> int:
        return self._total or len(self._iterable)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[object]:
        self._sites.begin_loop()
        try:
            for item in self._iterable:  # type: ignore[attr-defined]
                yield item
                self._sites.next_step()
        finally:
            self._sites.end_loop()

    def set_postfix(self, *_: object, **__: object) -> None:
        return None

    def close(self) -> None:
        return None
