"""A cache of traces: shipped for the common cases, otherwise in the user's cache folder.

Reading a trace needs no torch.

A trace depends on the network, the shapes, the element size and the attention, and on the versions
of torch, diffusers and transformers. The folder is `$XDG_CACHE_HOME/halftime/traces` (`~/.cache`
where unset) and safe to delete.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
from functools import cache, lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import write_bytes
from halftime.records import Json, Record
from halftime.verbs.forecast.geometry import Geometry
from halftime.verbs.forecast.ops import StageTrace

# Counts up when a tracer or fusion change makes old traces wrong.
TRACER_VERSION = 1


class Traced(Record, frozen=True, kw_only=True):
    """The subject of a trace; its hash names the file."""

    library: str
    class_name: str
    config: dict[str, Json]
    role: str
    geometry: Geometry
    element: Literal[2, 4]  # bytes of a weight
    attention: Literal["sdpa", "math"] = "sdpa"


def folder() -> Path:
    """The cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "halftime" / "traces"


@cache
def versions() -> tuple[str, ...]:
    """What a trace depends on besides its subject."""
    # The part after '+' names the build (cpu, cu130), which does not change the operations.
    installed = (
        metadata.version(name).partition("+")[0] for name in ("torch", "diffusers", "transformers")
    )
    return (str(TRACER_VERSION), *installed)


@lru_cache(maxsize=4096)
def _read(key: str) -> StageTrace | None:
    path = folder() / f"{key}.json.gz"
    try:
        data = shipped().get(key) or gzip.decompress(path.read_bytes())
        return msgspec.json.decode(data, type=StageTrace)
    except (OSError, EOFError, msgspec.DecodeError):
        return None  # absent or broken: trace again


@cache
def shipped() -> dict[str, msgspec.Raw]:
    """The traces that ship with halftime, of the versions that it was tested with.

    `workshop.forecast.traces` writes them.
    """
    path = resources.files("halftime.verbs.forecast").joinpath("data", "traces.json.gz")
    try:
        return msgspec.json.decode(gzip.decompress(path.read_bytes()), type=dict[str, msgspec.Raw])
    except (OSError, EOFError, msgspec.DecodeError):
        return {}


def key_of(subject: Traced) -> str:
    """The name that a trace is stored under."""
    content = msgspec.json.encode(subject, order="deterministic") + "/".join(versions()).encode()
    return hashlib.sha256(content).hexdigest()[:24]


def trace_of(subject: Traced) -> StageTrace:
    """The trace, from the cache or traced now. Raises BadInput if the component cannot be built."""
    key = key_of(subject)
    stage_trace = _read(key)
    if stage_trace is None:
        stage_trace = _traced_now(subject)
        with contextlib.suppress(BadFile):  # a read-only home only costs time
            write_bytes(
                folder() / f"{key}.json.gz",
                gzip.compress(msgspec.json.encode(stage_trace), 6, mtime=0),
            )
        _read.cache_clear()
    return stage_trace


def _traced_now(subject: Traced) -> StageTrace:
    import torch

    from halftime.verbs.forecast.components import build, forward_of
    from halftime.verbs.forecast.tracer import trace

    dtype = torch.float16 if subject.element == 2 else torch.float32
    run = forward_of(subject.class_name, subject.role, subject.geometry, dtype)
    module = build(subject.library, subject.class_name, subject.config, dtype)
    return trace(module, run, attention=subject.attention)[0]
