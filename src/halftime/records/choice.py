"""One fix, chosen: what plans, recipes and certificates are made of."""

from __future__ import annotations

from halftime.records.base import Json, Record


class Choice(Record, frozen=True, kw_only=True):
    """One fix by name, with the settings that differ from its defaults."""

    name: str
    settings: dict[str, Json] = {}
