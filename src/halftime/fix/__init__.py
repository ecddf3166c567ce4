"""fix: reversible changes to a pipeline, one a file.

`FIXES` names them, `ORDER` is the order of their application, `CONFLICTS` says which exclude each
other; `applied(pipeline, plan)` puts them on for a while and takes them back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halftime.fix.apply import applied as applied
    from halftime.fix.table import CONFLICTS as CONFLICTS
    from halftime.fix.table import FIXES as FIXES
    from halftime.fix.table import ORDER as ORDER

_HOMES = {"applied": "apply", "FIXES": "table", "ORDER": "table", "CONFLICTS": "table"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'halftime.fix' has no attribute {name!r}")
    return getattr(importlib.import_module(f"halftime.fix.{_HOMES[name]}"), name)
