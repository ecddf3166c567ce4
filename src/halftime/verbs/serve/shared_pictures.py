"""Pictures by URL where several replicas answer: in a folder, or a bucket that fsspec reads, that
all of them share."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import fsspec

from halftime.base.errors import BadInput
from halftime.verbs.serve.files import MEDIA_TYPES, PictureStore, StoredPicture

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

MEMORY, OFF = "memory", "off"
_EXTENSIONS = {media_type: name for name, media_type in MEDIA_TYPES.items()}
# What `put` makes and nothing else: a name from a request becomes part of a path here.
_NAME = re.compile(r"[A-Za-z0-9_-]{43}\.(?P<extension>png|jpeg|webp)")
_SWEEP_SECONDS = 60.0


class PictureShelf(Protocol):
    """Where pictures by URL are; may block."""

    def put(self, data: bytes, media_type: str) -> str: ...

    def get(self, name: str) -> StoredPicture | None: ...


class SharedPictures:
    """Pictures as files of `url`, a folder or what fsspec has a driver for, each for `lifetime`
    seconds. Whichever replica writes removes what has expired. `wall` is time.time(): files carry
    its times, and machines share no other clock."""

    def __init__(self, url: str, lifetime: float, wall: Callable[[], float] = time.time) -> None:
        self.lifetime, self._wall, self._swept = lifetime, wall, 0.0
        try:
            self._files, self._folder = file_system(url)
            self._files.makedirs(self._folder, exist_ok=True)
            self._files.rm_file(self._write("halftime-was-here", b""))
        except (OSError, ImportError, ValueError) as error:
            raise BadInput(
                f"--pictures {url}: cannot write there: {error}. Name a folder or a bucket that "
                f"all replicas share, {MEMORY!r} where there is one server, or {OFF!r}."
            ) from error

    def put(self, data: bytes, media_type: str) -> str:
        """Keep a picture; its name has 256 bits of chance."""
        name = f"{secrets.token_urlsafe(32)}.{_EXTENSIONS[media_type]}"
        self._write(name, data)
        self._sweep()
        return name

    def get(self, name: str) -> StoredPicture | None:
        """The picture, or None where it never was or has expired."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        path = f"{self._folder}/{name}"
        try:
            expires = self._files.modified(path).timestamp() + self.lifetime
            if expires <= self._wall():
                return None
            media_type = f"image/{match['extension']}"
            return StoredPicture(self._files.cat_file(path), media_type, expires)
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> str:
        """Under another name first, so that nobody reads half a picture."""
        path = f"{self._folder}/{name}"
        if "file" in self._files.protocol:
            part = f"{path}.part"
            self._files.pipe_file(part, data)
            self._files.mv(part, path)
        else:
            self._files.pipe_file(path, data)  # of an object store others see all or nothing
        return path

    def _sweep(self) -> None:
        now = self._wall()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for path in self._files.ls(self._folder, detail=False):
            if not _NAME.fullmatch(path.rpartition("/")[2]):
                continue
            try:
                if self._files.modified(path).timestamp() + self.lifetime <= now:
                    self._files.rm_file(path)
            except FileNotFoundError:  # another replica was faster
                continue


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system of an address, and the folder in it."""
    files, folder = fsspec.url_to_fs(url, use_listings_cache=False)
    return files, str(folder).rstrip("/")


def pictures_in(url: str, capacity: int, lifetime: float) -> PictureShelf | None:
    """Where pictures by URL are kept: in memory, nowhere, or in what replicas share. Raises
    BadInput."""
    if url == OFF:
        return None
    return PictureStore(capacity, lifetime) if url == MEMORY else SharedPictures(url, lifetime)
