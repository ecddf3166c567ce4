"""Saved compile artefacts: what was compiled once need not be compiled by the next process.

A folder for Inductor's cache, graphs and compiled kernels alike. torch's own one-file bundle was tried first: on the
CPU it restores the graphs but not the C++ kernels, which are what takes the time (22.0 s without, 21.7 s with it, 2.2 s
with the folder: the bundled VAE, one thread). The folder holds code that torch will run: use only your own.
"""

from __future__ import annotations

import os
from pathlib import Path

from halftime.errors import BadFile


def use(folder: str | None) -> str | None:
    """Let Inductor keep its cache there; call before torch is imported. The folder where it held something already.

    What is in it holds for the same torch, machine type and graphs; what does not fit is compiled anew. Raises BadFile.
    """
    if folder is None:
        return None
    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        filled = any(path.iterdir())
    except OSError as error:
        raise BadFile(f"{folder} cannot hold compile artefacts: {error.strerror}. Name a folder.") from error
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
    return folder if filled else None
