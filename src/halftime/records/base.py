"""The base of every record."""

from __future__ import annotations

import msgspec

# What a TOML or JSON file can hold.
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict: an unknown field in a file is an error, not silence."""
