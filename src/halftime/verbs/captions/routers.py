"""Routers as files: one between two models, or those of a chain."""

from __future__ import annotations

from pathlib import Path

from halftime.base.store import read_bytes, read_json
from halftime.records.captions import Chain, Router


def read_routers(path: str | Path) -> tuple[Router, ...]:
    """The routers of a file, the cheapest model's first. Raises BadFile."""
    if b'"routers"' in read_bytes(path):
        return read_json(path, Chain).routers
    return (read_json(path, Router),)
