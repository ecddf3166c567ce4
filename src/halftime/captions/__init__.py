"""`captions`: which caption requests need the large model? A router with a certified error.

`features` and `router` decide with numpy and Pillow alone; `calibrate` learns and certifies; `asgi` and `litellm_hook`
put the same decision in front of real models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from halftime.verbs import callable_package

if TYPE_CHECKING:
    from halftime.records.captions import CaptionsResult

__all__ = ["captions"]


def captions(log: str | Path, **settings: object) -> CaptionsResult:
    """Calibrate a router from a log of requests that both models answered.

    `settings` are the fields of `halftime.captions.calibrate.Settings`. Raises BadFile for a log that cannot be read,
    MissingExtra without `halftime[captions]`.
    """
    from halftime.captions.calibrate import Settings, calibrate
    from halftime.captions.log import read_log

    return calibrate(read_log(log), Settings(**settings))  # type: ignore[arg-type]


callable_package(__name__, captions)
