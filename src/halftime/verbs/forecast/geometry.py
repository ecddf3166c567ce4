"""The shapes of one forward."""

from __future__ import annotations

from halftime.records import Record


class Geometry(Record, frozen=True, kw_only=True):
    """What a component sees: `batch` rows (2 for guidance at batch 1), the picture in pixels,
    frames, text tokens."""

    batch: int = 1
    width: int = 1024  # pixels
    height: int = 1024  # pixels
    frames: int = 1
    tokens: int = 0  # of the prompt; 0 is the component's own default
