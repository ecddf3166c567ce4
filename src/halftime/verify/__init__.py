"""verify: are two sets of pictures the same within noise?"""

from __future__ import annotations

import importlib

from halftime.verbs import callable_package


def _verify(*args: object, **kwargs: object) -> object:
    return importlib.import_module("halftime.verify.run").verify(*args, **kwargs)


callable_package(__name__, _verify)
