"""`tune`: which fixes reach my target with my quality? A recipe, and the evidence for it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from halftime.verbs import callable_package

if TYPE_CHECKING:
    from halftime.records.tune import Tuning


def _tune(*args: object, **kwargs: object) -> Tuning:
    """`halftime.tune(pipeline, workload, target=2.0)`: the fixes that reach so many seconds a call, proven.

    Arguments as of `halftime.tune.run.tune`: `target` and `budget` in seconds, `speedup` a ratio. Raises HalftimeError.
    """
    result: Tuning = importlib.import_module("halftime.tune.run").tune(*args, **kwargs)
    return result


callable_package(__name__, _tune)
