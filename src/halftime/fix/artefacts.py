"""Compile artefacts: what torch.compile produced once, for the next process of the same kind.

The file is a zip archive of Inductor's cache folder: graphs, kernels, and what was learnt about the
C++ compiler. torch's own bundle (`torch.compiler.save_cache_artifacts`) has the graphs but not
the CPU's kernels, which is where the time goes. The archive holds code that torch runs, as torch's
bundle does: an archive from someone else is a program from someone else. It is read only where it
is named.
"""

from __future__ import annotations

import io
import platform
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import msgspec

from halftime import __version__
from halftime.base import environment
from halftime.base.errors import BadFile, HalftimeWarning
from halftime.base.store import decoded, write_bytes
from halftime.pipeline.device import this_environment
from halftime.records.artefacts import Manifest
from halftime.records.base import content_hash
from halftime.records.recipe import Plan, Recipe
from halftime.upstream import pytorch

if TYPE_CHECKING:
    import torch

SUFFIX = ".artefacts"  # beside a recipe
_COMPILES = ("vae-compile", "denoiser-compile", "loop-graph")
_MANIFEST, _INSIDE = "halftime.json", "inductor"
_DAMAGE = (BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError, RuntimeError)
_open: list[Path] = []  # whatever is compiled now is kept


def beside(recipe: Path | str) -> Path:
    """Where the artefacts of a recipe's file are kept unless another name is given."""
    return Path(recipe).with_suffix(SUFFIX)


def compiles(plan: Plan | Recipe) -> bool:
    """Whether a plan has anything for torch.compile to do on the CPU, so that there is something to
    keep."""
    elsewhere = ("openvino", "eager")
    return any(
        c.name in _COMPILES and c.settings.get("backend") not in elsewhere for c in plan.fixes
    )


def keeping() -> bool:
    """Whether what is compiled now goes into a file."""
    return bool(_open)


def made_for(
    device: torch.device, plan: Plan | Recipe, architecture: Mapping[str, str]
) -> dict[str, str]:
    """All that compiled code depends on beyond what the compiler's own keys hold."""
    machine = this_environment(str(device))
    fixes = sorted(plan.fixes, key=lambda choice: choice.name)
    return {
        **{name: machine.versions[name] for name in ("torch", "cuda") if name in machine.versions},
        "Python": platform.python_version(),
        "processor": machine.processor,
        # Virtual machines name different processors alike, and kernels are compiled for this one.
        "set of instructions": " ".join(environment.instructions()),
        "device": machine.device_name,
        "number of threads": str(machine.threads),
        "model": content_hash(dict(architecture)),
        "recipe": content_hash(msgspec.to_builtins(fixes)),
    }


@dataclass
class OpenArtefacts:
    """An open file of artefacts. `fits`: it existed and fits, so its content is not compiled."""

    path: Path
    made_for: Mapping[str, str]
    folder: Path  # Inductor's while this is open
    fits: bool = False
    saved: set[str] = field(default_factory=set)  # what is in the file already

    def save(self) -> bool:
        """Write the file if something was compiled that is not in it. Warns where it cannot be
        written."""
        files = _files(self.folder)
        if files.keys() <= self.saved:
            return False
        try:
            write_bytes(self.path, _packed(files, self.made_for))
        except BadFile as error:
            warnings.warn(
                f"the compile artefacts are not kept: {error}", HalftimeWarning, stacklevel=2
            )
            return False
        self.saved = set(files)
        return True

    def discard(self) -> None:
        """Remove the temporary folder, in a process that ends without leaving `open_artefacts`."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


@contextmanager
def open_artefacts(path: Path, kind: Mapping[str, str]) -> Iterator[OpenArtefacts]:
    """What is compiled in the block comes from this file where it can, and is in it afterwards.

    A file that is for something else is ignored with a warning, and replaced once something was
    compiled. Raises BadFile for a file that is not ours or is damaged. An error in the block leaves
    the file as it was.
    """
    with tempfile.TemporaryDirectory(
        prefix="halftime-artefacts-", ignore_cleanup_errors=True
    ) as temporary:
        folder = Path(temporary) / _INSIDE
        folder.mkdir()
        opened = OpenArtefacts(path, kind, folder)
        if path.exists():
            opened.fits = _unpack(path, kind, Path(temporary))
            opened.saved = set(_files(folder))
        _open.append(path)
        try:
            with pytorch.inductor_folder(folder):
                yield opened
        finally:
            _open.remove(path)
        opened.save()


def _files(folder: Path) -> dict[str, Path]:
    """Name in the archive -> file; locks are of this process only."""
    return {
        path.relative_to(folder.parent).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".tmp")
    }


def _packed(files: Mapping[str, Path], kind: Mapping[str, str]) -> bytes:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(halftime=__version__, created=created, made_for=dict(kind))
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        archive.writestr(_MANIFEST, msgspec.json.encode(manifest))
        for name, path in sorted(files.items()):
            archive.write(path, name)
    return buffer.getvalue()


def _unpack(path: Path, kind: Mapping[str, str], folder: Path) -> bool:
    """Unpack the compiler's cache into the folder; False, with a warning, where it is for something
    else."""
    try:
        with ZipFile(path) as archive:
            manifest = decoded(path, archive.read(_MANIFEST), Manifest)
            differing = differences(manifest.made_for, kind)
            if differing:
                warning = (
                    f"{path} was made for {', '.join(differing)}. It is not used: everything is "
                    "compiled anew."
                )
                warnings.warn(warning, HalftimeWarning, stacklevel=6)
                return False
            # zipfile strips names that lead out of the folder; a wrong checksum raises.
            inside = [name for name in archive.namelist() if name.startswith(f"{_INSIDE}/")]
            archive.extractall(folder, inside)
    except OSError as error:
        raise BadFile(
            f"cannot read {path}: {error.strerror}. Name a file of compile artefacts."
        ) from error
    except _DAMAGE as error:
        raise BadFile(
            f"{path} is not a file of compile artefacts, or it is damaged ({error}). "
            "Name another one, or delete it: it is written again once something was compiled."
        ) from error
    return True


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What does not agree, in words."""
    return [
        f"another {name}"
        if name in ("model", "recipe")
        else f"another {name} ({theirs}, here {ours})"
        for name in [*here, *(name for name in there if name not in here)]
        if (theirs := there.get(name, "none")) != (ours := here.get(name, "none"))
    ]
