"""fix: reversible changes to a pipeline, one a file.

`FIXES` names them, `ORDER` is the order of their application, `CONFLICTS` says which exclude each
other; `applied(pipeline, plan)` puts them on for a while and takes them back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halftime.fix.apply import applied as applied
    from halftime.fix.table import FIXES as FIXES
    from halftime.records.fixes import CONFLICTS as CONFLICTS
    from halftime.records.fixes import ORDER as ORDER

_HOMES = {
    "applied": "halftime.fix.apply",
    "FIXES": "halftime.fix.table",
    "ORDER": "halftime.records.fixes",
    "CONFLICTS": "halftime.records.fixes",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'halftime.fix' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
