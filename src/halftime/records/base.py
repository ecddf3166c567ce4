"""The base of every record."""

from __future__ import annotations

import hashlib

import msgspec

# What an argument in a TOML or JSON file can hold.
Scalar = None | bool | int | float | str
Json = Scalar | list[Scalar] | dict[str, Scalar]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, strict: an unknown field in a file is an error, not silence."""


def content_hash(value: object) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON; equal for equal content, wherever it
    was written."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
