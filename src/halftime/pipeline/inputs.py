"""What goes into a call beside text: pictures, films and tensors, read from files and hashed."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from diffusers.utils import load_video
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from halftime.base.errors import BadFile, MissingExtra
from halftime.base.extras import install
from halftime.records import Workload
from halftime.records.base import Json
from halftime.records.workload import FILES

# How an argument of `--set`, or of a workload's table, says that its value is in a file.
FROM_FILE = "@"
_FILMS = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}


# ---- reading


def picture(path: str) -> Image.Image:
    """The picture of a file, in RGB, the right way up. Raises BadFile."""
    return _frames(path, *_stamp(path))[0].copy()


def video(path: str) -> list[Image.Image]:
    """The frames of a film, of an animated picture, or of a folder of pictures by their names.

    Raises BadFile, or MissingExtra where a film needs a package that is not installed.
    """
    return [frame.copy() for frame in _frames(path, *_stamp(path))]


def picture_or_video(path: str) -> Image.Image | list[Image.Image]:
    """A picture; its frames where the file or folder holds several."""
    frames = video(path)
    is_film = len(frames) > 1 or Path(path).is_dir() or Path(path).suffix.lower() in _FILMS
    return frames if is_film else frames[0]


def value_of(path: str, name: str) -> object:
    """What a file holds for the argument `name`: a picture, frames, or a tensor.

    Of a .safetensors file with several tensors it is the one of that name. Raises BadFile.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _FILMS | _PICTURES or Path(path).is_dir():
        return picture_or_video(path)
    _stamp(path)
    if suffix == ".safetensors":
        return _safetensor(path, name)
    try:
        if suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if suffix in (".pt", ".pth", ".bin"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever the bytes make them raise
        raise BadFile(f"cannot read a tensor from {path}: {error}") from error
    raise BadFile(
        f"{path} is no file that an argument can come from. Allowed are pictures "
        f"({', '.join(sorted(_PICTURES))}), films ({', '.join(sorted(_FILMS))}), folders of "
        "pictures, and tensors (.safetensors, .pt, .npy)."
    )


def _safetensor(path: str, name: str) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            chosen = name if name in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return cast(torch.Tensor, file.get_tensor(chosen))
    except (SafetensorError, OSError) as error:
        raise BadFile(f"cannot read {path}: {error}.") from error
    raise BadFile(f"{path} has no tensor called {name!r}. It has: {', '.join(names[:20])}.")


def _stamp(path: str) -> tuple[int, int]:
    """What changes when the file does. Raises BadFile where it cannot be read."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}.") from error
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=32)
def _frames(path: str, *_stamp: int) -> tuple[Image.Image, ...]:
    """Every call of a measurement gets the same pictures, and reads their files once."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in _PICTURES)
        if not files:
            raise BadFile(f"the folder {path} holds no pictures that could be frames.")
        return tuple(_opened(file)[0] for file in files)
    if Path(path).suffix.lower() in _FILMS:
        return tuple(_film(path))
    return tuple(_opened(Path(path)))


def _opened(file: Path) -> list[Image.Image]:
    try:
        with Image.open(file) as opened:
            return [
                ImageOps.exif_transpose(frame).convert("RGB")
                for frame in ImageSequence.Iterator(opened)
            ]
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"{file} cannot be read as a picture: {error}") from error


def _film(path: str) -> list[Image.Image]:
    try:
        frames: list[Image.Image] = load_video(path)
    except ImportError as error:
        raise MissingExtra(
            "imageio",
            f"reading {path} (a folder of frames or a GIF does without)",
            install("video"),
        ) from error
    except Exception as error:  # of the decoder's kind
        raise BadFile(f"{path} cannot be read as a film: {error}") from error
    if not frames:
        raise BadFile(f"{path} holds no frames.")
    return frames


def from_files(arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments, those that begin with '@' replaced by what their files hold."""
    return {
        name: value_of(value.removeprefix(FROM_FILE), name)
        if isinstance(value, str) and value.startswith(FROM_FILE)
        else value
        for name, value in arguments.items()
    }


# ---- telling


def described(workload: Workload, arguments: Mapping[str, object] | None = None) -> Workload:
    """The workload with the contents of its files, and with the further arguments that its calls
    got: as they are where a file can hold them, by kind, size and hash where not."""
    plain = {name: value for name, value in (arguments or {}).items() if is_json(value)}
    opaque = {name: value for name, value in (arguments or {}).items() if name not in plain}
    values = {
        **{name: _read(name, getattr(workload, name)) for name in FILES},
        **{
            name: value_of(value.removeprefix(FROM_FILE), name)
            for name, value in workload.arguments.items()
            if isinstance(value, str) and value.startswith(FROM_FILE)
        },
        **opaque,
    }
    return msgspec.structs.replace(
        workload,
        arguments={**workload.arguments, **cast("dict[str, Json]", plain)},
        contents={name: content(value) for name, value in values.items() if value is not None},
    )


def _read(field: str, files: Sequence[str] | str | None) -> object:
    if not files:
        return None
    if isinstance(files, str):
        return video(files) if field == "video" else picture_or_video(files)
    return [picture_or_video(file) for file in files]


def is_json(value: object) -> bool:
    """Whether a workload's file can hold the value, and give it back equal."""
    if isinstance(value, list):
        return all(map(_is_scalar, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_scalar(item) for name, item in value.items())
    return _is_scalar(value)


def _is_scalar(value: object) -> bool:
    return value is None or type(value) in (bool, int, str) or _is_number(value)


def _is_number(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def content(value: object) -> str:
    """Kind, size and hash of a value: equal for equal content, in another process too.

    What has no bytes of its own (a function, an object of a user's class) is told by its name.
    """
    digest = hashlib.sha256()
    kind = _feed(digest, value)
    return f"{kind} {digest.hexdigest()[:16]}"


def _feed(digest: hashlib._Hash, value: object) -> str:
    """Hash a value; returns its kind and size in words."""
    if isinstance(value, torch.Tensor):
        kind = f"{str(value.dtype).removeprefix('torch.')} {_shape(value.shape)}"
        data = b"" if value.is_meta else _bytes(value)
    elif isinstance(value, np.ndarray):
        kind = f"{value.dtype} {_shape(value.shape)}"
        data = np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Image.Image):
        kind, data = f"picture {value.mode} {_shape(value.size)}", value.tobytes()
    elif isinstance(value, torch.Generator):
        kind, data = "generator", str(value.initial_seed()).encode()
    elif isinstance(value, Mapping):
        kinds = [f"{name}: {_feed(digest, value[name])}" for name in sorted(value, key=str)]
        kind, data = f"{{{', '.join(kinds)}}}", b""
    elif isinstance(value, list | tuple):
        kinds = [_feed(digest, item) for item in value]
        alike = len({*kinds}) == 1
        kind = f"{len(kinds)} x {kinds[0]}" if alike else f"[{', '.join(kinds)}]"
        data = b""
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        kind, data = type(value).__name__, repr(value).encode()
    else:
        name = getattr(value, "__qualname__", None) or type(value).__qualname__
        kind, data = str(name), b""
    digest.update(f"{kind};".encode())
    digest.update(data)
    return kind


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


# ---- giving


def again(value: object) -> object:
    """The value for one call: a generator starts where it did at the first, and lists are copied,
    since pipelines change them."""
    if isinstance(value, torch.Generator):
        copy = torch.Generator(value.device)
        copy.set_state(value.get_state())
        return copy
    if isinstance(value, list):
        return [again(item) for item in value]
    return value
