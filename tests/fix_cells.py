"""One fix on one pipeline, judged: it applies within its level, it refuses, or it fails.

What the matrices of `benchmarks.fix.breadth` and their samples in the suite share.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import halftime
from halftime.base.errors import HalftimeError
from halftime.fix.apply import reasons
from halftime.pipeline.components import pipelines_of
from halftime.records.recipe import Choice

Call = Callable[[], object]
Outcome = Literal["applies", "refuses", "fails"]

# The largest difference that a level allows: rmse over the standard deviation of the picture.
# What runs in bf16 is as far off as bf16 is. Approximate fixes promise no figure.
EQUIVALENT = 1e-3
IN_BF16 = 0.1
BF16_FIXES = frozenset({"denoiser-dtype", "vae-dtype"})

# As they are tried here, where their defaults would take minutes or need more steps.
SETTINGS: dict[str, dict[str, object]] = {
    "loop-graph": {"backend": "eager"},
    "solver-steps": {"steps": 3},
    "denoiser-quantize": {"kind": "int8-dynamic", "least_features": 8},
    "text-quantize": {"kind": "int8-weight-only", "least_features": 8},
}
# Tried without compiling: what these fixes do to a pipeline, without minutes of code generation.
COMPILERS = frozenset({"denoiser-compile", "vae-compile", "loop-graph"})
# Other runtimes take minutes a pipeline, and have tests of their own.
RUNTIMES = frozenset({"openvino", "onnxruntime"})
STEPS = 2


@dataclass(frozen=True)
class Cell:
    """`text` is the reason of a refusal or what failed; `difference` is the picture's."""

    outcome: Outcome
    text: str = ""
    difference: float | None = None

    def plain(self) -> dict[str, object]:
        """As it is written to a result file: without this machine's path to its Python."""
        text = re.sub(r"\S*python\S* -m pip", "pip", self.text)
        fields = {**vars(self), "text": text}
        return {name: value for name, value in fields.items() if value not in ("", None)}


def allowed(fix: str) -> float:
    """The largest difference of a fix that keeps its level."""
    level = halftime.FIXES[fix].level
    if level == "approximate":
        return float("inf")
    if fix in BF16_FIXES:
        return IN_BF16
    return 0.0 if level == "bit-exact" else EQUIVALENT


def error_line(error: BaseException) -> str:
    """An error's class and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


# ---- what a pipeline draws


def drawing(call: Call) -> np.ndarray:
    """Every number that a call returns, in one float64 array."""
    torch.manual_seed(0)
    numbers = [np.asarray(part, dtype=np.float64).ravel() for part in _arrays(call())]
    return np.concatenate(numbers) if numbers else np.zeros(0)


def _arrays(value: object) -> Iterator[object]:
    if isinstance(value, Tensor):
        yield value.detach().float().cpu().numpy()
    elif isinstance(value, np.ndarray):
        yield value.astype(np.float64) if value.dtype.kind in "fiub" else []
    elif isinstance(value, Image.Image):
        yield np.asarray(value) / 255
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _arrays(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _arrays(item)


def difference(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """The rmse over the baseline's standard deviation; infinite where it is not a picture."""
    if baseline.shape != candidate.shape or not np.isfinite(candidate).all():
        return float("inf")
    rmse = float(np.sqrt(np.mean((baseline - candidate) ** 2)))
    return rmse / (float(np.std(baseline)) or 1.0)


# ---- what a pipeline is


def fingerprint(pipeline: object) -> dict[str, str]:
    """Path -> value or identity of all that a pipeline holds: weights, buffers, attributes,
    classes, hooks, schedulers. Two that are equal are of pipelines that are equal bit for bit."""
    entries: dict[str, str] = {}
    for index, part in enumerate(pipelines_of(pipeline)):  # type: ignore[arg-type]
        _describe(f"{type(part).__name__}{index}", part, entries, set(), 0)
    return entries


def _describe(
    path: str, value: object, entries: dict[str, str], seen: set[int], depth: int
) -> None:
    if isinstance(value, Tensor):
        entries[path] = f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {_hash(value)}"
    elif value is None or isinstance(value, str | int | float | bool | torch.dtype | torch.device):
        entries[path] = repr(value)[:200]
    elif isinstance(value, np.ndarray):
        entries[path] = f"array {value.shape} {_digest(value.tobytes())}"
    elif id(value) in seen or depth > 40:
        entries[path] = f"again {type(value).__name__}"
    elif isinstance(value, Mapping) and not _is_accelerates(value):
        seen.add(id(value))
        entries[path] = f"{type(value).__name__} of {len(value)}"
        for key, item in value.items():
            _describe(f"{path}.{key}", item, entries, seen, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        entries[path] = f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            _describe(f"{path}.{index}", item, entries, seen, depth + 1)
    else:
        _describe_object(path, value, entries, seen, depth)


def _is_accelerates(value: object) -> bool:
    """Its mappings of offloaded weights list names that they do not have; their fields are read."""
    return type(value).__module__.startswith("accelerate.")


def _describe_object(
    path: str, value: object, entries: dict[str, str], seen: set[int], depth: int
) -> None:
    seen.add(id(value))
    ours = type(value).__module__.partition(".")[0]
    entries[path] = f"{type(value).__module__}.{type(value).__qualname__} {id(type(value))}"
    followed = isinstance(value, nn.Module) or ours in ("diffusers", "peft", "accelerate")
    if followed and hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            _describe(f"{path}.{name}", item, entries, seen, depth + 1)
    elif callable(value):
        entries[path] += f" {getattr(value, '__qualname__', '')}"


def _hash(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    try:
        plain = tensor.detach().contiguous().cpu()
        return _digest(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):
        return str(id(tensor))  # a quantised subclass: the very object


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The paths at which two fingerprints differ."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )


# ---- one cell


class TookTooLong(Exception):
    """A cell's limit passed."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TookTooLong in the block after so many seconds of this process's own time, which a
    busy machine does not stretch."""

    def stop(*_: object) -> None:
        raise TookTooLong(f"over {seconds} s of processor time")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


class Subject:
    """A pipeline and its call, with what it draws and what it is when nothing is applied.

    `coarse` is what 'equivalent' is where the pipeline itself is in half precision; `neighbour`
    calls another pipeline, which no fix on this one may change; `sizes` are those of the call, for
    the probe: pictures of two latents by two round otherwise than those of eight by eight. `seeded`
    draws with another seed: where one picture in bf16 is too far off, it and three more decide,
    since rounding differs from one picture to the next by more than its mean.
    """

    def __init__(
        self,
        pipeline: object,
        call: Call,
        *,
        coarse: float = 0.0,
        neighbour: Call | None = None,
        sizes: Mapping[str, object] | None = None,
        seeded: Callable[[int], object] | None = None,
    ) -> None:
        self.pipeline, self.call, self.sizes = pipeline, call, sizes or {}
        self.seeded = seeded
        self.coarse, self.neighbour = coarse, neighbour
        self.baseline = drawing(call)
        self.steady = np.array_equal(self.baseline, drawing(call))
        self.beside = drawing(neighbour) if neighbour else None
        self.before = fingerprint(pipeline)

    def row(self, limit: int = 90, fixes: Collection[str] = ()) -> dict[str, Cell]:
        """Every fix, or these."""
        cells: dict[str, Cell] = {}
        for fix, reason in reasons(self.pipeline).items():  # type: ignore[arg-type]
            if fixes and fix not in fixes:
                continue
            if reason is not None and fix not in SETTINGS:  # its reason is that of its defaults
                cells[fix] = Cell("refuses", reason)
            elif fix in RUNTIMES:
                cells[fix] = Cell("applies", "not run")
            else:
                cells[fix] = self.try_fix(fix, limit=limit)
        return cells

    def try_fix(self, fix: str, settings: dict[str, object] | None = None, limit: int = 90) -> Cell:
        """Apply it, draw, take it back, draw again."""
        chosen = Choice(name=fix, settings=SETTINGS.get(fix, {}) if settings is None else settings)
        if fix not in COMPILERS:
            return self._judged(fix, chosen, limit)
        with torch.compiler.set_stance("force_eager"):
            return self._judged(fix, chosen, limit)

    def _judged(self, fix: str, chosen: Choice, limit: int) -> Cell:
        entered = False
        candidate, beside, more = self.baseline, self.beside, None
        try:
            probe = self.sizes or True
            with limited(limit), halftime.applied(self.pipeline, [chosen], probe=probe):  # type: ignore[arg-type]
                entered = True
                candidate = drawing(self.call)
                if fix in BF16_FIXES and difference(self.baseline, candidate) > IN_BF16:
                    more = self._drawn_more()
                beside = drawing(self.neighbour) if self.neighbour else None
        except HalftimeError as error:
            failed = Cell("fails", f"in the call: {error_line(error)}")
            return self.undone(failed if entered else Cell("refuses", str(error)))
        except (Exception, TookTooLong) as error:
            place = "in the call" if entered else "when applied"
            return self.undone(Cell("fails", f"{place}: {error_line(error)}"))
        if more is None:
            return self.undone(self._compared(fix, self.baseline, candidate, beside))
        baseline = np.concatenate([self.baseline, self._drawn_more()])
        return self.undone(self._compared(fix, baseline, np.concatenate([candidate, more]), beside))

    def _drawn_more(self) -> np.ndarray:
        """Three further pictures, in one array."""
        if self.seeded is None:
            return np.zeros(0)
        return np.concatenate([drawing(partial(self.seeded, seed)) for seed in (1, 2, 3)])

    def _compared(
        self, fix: str, baseline: np.ndarray, candidate: np.ndarray, beside: np.ndarray | None
    ) -> Cell:
        if self.beside is not None and beside is not None:
            distance = difference(self.beside, beside)
            if distance > EQUIVALENT:
                return Cell("fails", f"it changes the picture of another pipeline: {distance:.2g}")
        distance = difference(baseline, candidate)
        limit = allowed(fix)
        if halftime.FIXES[fix].level == "equivalent":
            limit = max(limit, self.coarse)
        if not np.isfinite(distance):
            words = "another shape" if candidate.shape != baseline.shape else "not finite"
            return Cell("fails", f"the picture is of {words}" if "shape" in words else words)
        if distance > limit and self.steady:
            return Cell("fails", f"picture off by {distance:.2g}, allowed {limit:g}", distance)
        return Cell("applies", "", distance)

    def undone(self, cell: Cell) -> Cell:
        """The cell, or a failed one where a trace was left."""
        aside = f" ({cell.text})" if cell.text else ""
        try:
            again = drawing(self.call)
        except Exception as error:
            return Cell("fails", f"after undo: {error_line(error)}{aside}")
        if self.steady and not np.array_equal(again, self.baseline):
            off = difference(self.baseline, again)
            return Cell("fails", f"undo not exact: picture off by {off:.2g}{aside}")
        after = fingerprint(self.pipeline)
        differing = changes(self.before, after)
        self.before = after  # said once, by what did it
        if differing:
            words = f"undo not exact: {len(differing)} entries, first {differing[:2]}{aside}"
            return Cell("fails", words)
        return cell
