"""The bundled model, broken on demand: a worker whose process id stands in the file that
`FAULT_FILE` names fails in every call, as after a sticky CUDA error."""

from __future__ import annotations

import os
from pathlib import Path

from halftime import bundled

FAULT_FILE = "HALFTIME_BENCHMARK_FAULT_FILE"


def pipeline() -> object:
    """For `halftime serve benchmarks.serve.failing:pipeline`."""
    loaded = bundled.load()
    forward = loaded.unet.forward

    def failing(*args: object, **kwargs: object) -> object:
        path = Path(os.environ[FAULT_FILE])
        if path.exists() and path.read_text() == str(os.getpid()):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return forward(*args, **kwargs)

    loaded.unet.forward = failing
    return loaded
