"""verify: are two sets of pictures the same within noise?"""

from __future__ import annotations

import importlib

from halftime.verbs import callable_package


def _verify(*args: object, **kwargs: object) -> object:
    """`halftime.verify(baseline, candidate, margin=3.0)`: a Verdict on two sets of pictures, in units of noise floors.

    Arguments as of `halftime.verify.run.verify`. Raises HalftimeError.
    """
    return importlib.import_module("halftime.verify.run").verify(*args, **kwargs)


callable_package(__name__, _verify)
