"""What is sent and where: named targets, payloads as image services send them, and their bytes."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from halftime.base.errors import BadFile, BadInput

# in every prompt, followed by the request's id: it survives whatever rewrites headers
MARK = "halftime-"
_ID = "0" * 8
PAYLOADS = ("chat", "image-in", "image-out")
Body = dict[str, object]


@dataclass(frozen=True)
class Payload:
    """What to ask for. `picture`: bytes of the picture sent (image-in) or returned (image-out)."""

    kind: str = "chat"
    picture: int = 65536
    stream: bool = False
    url: str | None = None  # image-in: send this URL instead of the picture
    model: str = "mock-model"


@dataclass(frozen=True)
class Target:
    """A family of endpoints: paths by payload kind ({model} is filled in), body, key's scheme."""

    paths: Mapping[str, str]
    body: Callable[[Payload], Body]
    key: str = "Bearer"
    headers: tuple[tuple[str, str], ...] = ()


def picture(size: int) -> bytes:
    """A PNG of noise of exactly `size` bytes, the same for each size.

    Decoders ignore the bytes after its end.
    """
    side = max(1, int(((max(size, 256) - 200) / 3.01) ** 0.5) - 1)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue().ljust(size, b"\0")


def _picture_url(payload: Payload) -> str:
    return (
        payload.url
        or "data:image/png;base64," + base64.b64encode(picture(payload.picture)).decode()
    )


def _prompt(payload: Payload) -> str:
    if payload.kind == "image-out":
        # The mock reads the size of its answer from here: no field of the request carries it.
        return f"A red apple on a table ({MARK}{_ID}-{payload.picture})"
    return f"Describe this in one sentence ({MARK}{_ID})"


def _openai(payload: Payload) -> Body:
    if payload.kind == "image-out":
        return {
            "model": payload.model,
            "prompt": _prompt(payload),
            "n": 1,
            "size": "1024x1024",
        } | _streamed(payload)
    text = _prompt(payload)
    content: object = text
    if payload.kind == "image-in":
        image = {"type": "image_url", "image_url": {"url": _picture_url(payload)}}
        content = [{"type": "text", "text": text}, image]
    messages = [{"role": "user", "content": content}]
    return {"model": payload.model, "messages": messages, "max_tokens": 64} | _streamed(payload)


def _streamed(payload: Payload) -> Body:
    return {"stream": True} if payload.stream else {}


def _kserve(payload: Payload) -> Body:
    inputs = [_tensor("PROMPT", _prompt(payload))]
    if payload.kind == "image-in":
        inputs.append(_tensor("IMAGE", _picture_url(payload)))
    return {"id": _ID, "inputs": inputs}


def _tensor(name: str, value: str) -> Body:
    return {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}


def _replicate(payload: Payload) -> Body:
    inputs: Body = {"prompt": _prompt(payload)}
    if payload.kind == "image-in":
        inputs["image"] = _picture_url(payload)
    return {"version": payload.model, "input": inputs} | _streamed(payload)


def _fal(payload: Payload) -> Body:
    body: Body = {"prompt": _prompt(payload), "sync_mode": True}
    return body | ({"image_url": _picture_url(payload)} if payload.kind == "image-in" else {})


# OpenAI: platform.openai.com/docs/api-reference; KServe v2: kserve.github.io, Open Inference
# Protocol (Triton speaks it); Replicate: replicate.com/docs/reference/http (Prefer: wait answers
# when done); fal: fal.ai/docs, synchronous.
_CHAT = {
    "chat": "/chat/completions",
    "image-in": "/chat/completions",
    "image-out": "/images/generations",
}
TARGETS = {
    "openai": Target(_CHAT, _openai),
    "kserve": Target(dict.fromkeys(PAYLOADS, "/v2/models/{model}/infer"), _kserve),
    "replicate": Target(
        dict.fromkeys(PAYLOADS, "/v1/predictions"), _replicate, headers=(("Prefer", "wait"),)
    ),
    "fal": Target(dict.fromkeys(PAYLOADS, "/{model}"), _fal, key="Key"),
}


@dataclass(frozen=True)
class Endpoint:
    """One place to send to, with the bytes of a request up to and from its id."""

    host: str
    port: int
    tls: bool
    prefix: bytes
    suffix: bytes
    marked: bool
    overhead_header: str = ""
    ca_file: str | None = None

    def parts(self, number: str) -> tuple[bytes, ...]:
        """The request with this id (8 hexadecimal digits)."""
        return (self.prefix, number.encode(), self.suffix) if self.marked else (self.prefix,)

    @property
    def request_bytes(self) -> int:
        """Head and body."""
        return len(self.prefix) + len(self.suffix) + (len(_ID) if self.marked else 0)


def endpoint(
    url: str,
    payload: Payload,
    target: str = "openai",
    *,
    key_env: str | None = None,
    headers: Mapping[str, str] | None = None,
    overhead_header: str = "x-litellm-overhead-duration-ms",
    ca_file: str | None = None,
) -> Endpoint:
    """Where to send and what.

    Raises BadInput for a URL or target that is not one and for an environment variable that is not
    set, BadFile for a payload that is neither a known kind nor a file.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"{url!r} is not a URL. Write it as http://HOST:PORT/v1 or https://HOST/v1.")
    if target not in TARGETS:
        raise BadInput(f"--target {target!r} is not known. It is one of: {', '.join(TARGETS)}.")
    family = TARGETS[target]
    body, path = _body_and_path(payload, family, parts.path)
    lines = {
        "Host": parts.netloc.rpartition("@")[2],
        "User-Agent": "halftime",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    lines |= dict(family.headers) | _key(key_env, family.key) | dict(headers or {})
    query = f"?{parts.query}" if parts.query else ""
    head = f"POST {path}{query} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in lines.items()
    )
    prefix, mark, suffix = (head.encode() + b"\r\n" + body).partition((MARK + _ID).encode())
    secure = parts.scheme == "https"
    return Endpoint(
        host=parts.hostname,
        port=parts.port or (443 if secure else 80),
        tls=secure,
        prefix=prefix + MARK.encode() if mark else prefix,
        suffix=suffix,
        marked=bool(mark),
        overhead_header=overhead_header,
        ca_file=ca_file,
    )


def _body_and_path(payload: Payload, family: Target, base: str) -> tuple[bytes, str]:
    if payload.kind not in PAYLOADS:
        return _file(payload.kind), base or "/"
    ending = family.paths[payload.kind].format(model=payload.model)
    path = base if base.endswith(ending) else base.rstrip("/") + ending
    return json.dumps(family.body(payload)).encode(), path


def _file(name: str) -> bytes:
    """A request body from a file; `{id}` in it becomes the request's id."""
    try:
        return Path(name).read_bytes().replace(b"{id}", (MARK + _ID).encode())
    except OSError as error:
        kinds = ", ".join(PAYLOADS)
        raise BadFile(
            f"--payload {name!r} is neither one of {kinds} nor a file that can be read."
        ) from error


def _key(variable: str | None, scheme: str) -> dict[str, str]:
    if variable is None:
        return {}
    value = os.environ.get(variable)
    if not value:
        raise BadInput(
            f"the environment variable {variable} is not set. Set it to the key, or leave "
            "--key-env out."
        )
    return {"Authorization": f"{scheme} {value}"}


def shown(url: str) -> str:
    """A URL without its user, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
