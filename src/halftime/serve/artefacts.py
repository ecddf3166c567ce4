"""Saved compile artefacts: what Inductor compiled once need not be compiled by the next process.

torch's own bundle ('mega-cache'). It is code that torch will run: read only files that you wrote yourself, as with any
program. They hold for the same torch, the same machine type and the same graphs; what does not fit is compiled anew.
"""

from __future__ import annotations

from pathlib import Path

import torch

from halftime.store import read_bytes, write_bytes


def load(path: str | None) -> str | None:
    """Hand a saved bundle to torch, before anything is compiled. The path where that was done, or None."""
    if path is None or not Path(path).is_file():
        return None
    return path if torch.compiler.load_cache_artifacts(read_bytes(path)) is not None else None


def save(path: str | None) -> None:
    """Write what this process compiled, unless the file is there already or nothing was compiled."""
    if path is None or Path(path).exists():
        return
    saved = torch.compiler.save_cache_artifacts()
    if saved is not None:
        write_bytes(path, saved[0])
