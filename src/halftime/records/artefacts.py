"""What a file of compile artefacts says about itself."""

from __future__ import annotations

from typing import Literal

from halftime.records.base import Record


# Schema history
# 1  2026-11  first
class Manifest(Record, frozen=True, kw_only=True):
    """The first entry of the archive; the rest is the compiler's cache as it lay on the disk."""

    schema: Literal[1] = 1
    halftime: str = ""
    created: str = ""  # ISO 8601, UTC
    # what must agree before any of it is used: torch, processor, device, recipe …
    made_for: dict[str, str]
