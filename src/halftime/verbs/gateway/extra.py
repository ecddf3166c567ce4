"""The optional packages of this verb, imported on use."""

from __future__ import annotations

from types import ModuleType

from halftime.base.extras import optional


def need(name: str) -> ModuleType:
    """Import a package of the extra `gateway`. Raises MissingExtra."""
    return optional(name, "gateway", "halftime gateway")
