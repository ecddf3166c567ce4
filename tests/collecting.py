"""The garbage collector in a process that runs many tests."""

from __future__ import annotations

import gc


def freeze() -> None:
    """What the imports made, over a million objects, stays: the collector need not look at it
    again and again, as each call that `profile` times asks for, nor must what searches the live
    objects."""
    gc.collect()
    gc.freeze()
