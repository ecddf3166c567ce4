"""What is sent and where: named targets, payloads as image services send them, and their bytes."""

from __future__ import annotations

import base64
import io
import json
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import numpy as np
from PIL import Image

from halftime.base.errors import BadFile, BadInput
from halftime.verbs.gateway.reply import Expected

# in every prompt, followed by the request's id: it survives whatever rewrites headers
MARK = "halftime-"
_ID = "0" * 8
MAX_TOKENS = 64  # that an answer may have
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
    prompts: tuple[str, ...] = ()  # sent in turn; none: one of ours


@dataclass(frozen=True)
class Trust:
    """How a server of https is believed, and who we are to it."""

    ca_file: str | None = None
    insecure: bool = False
    client_cert: str | None = None
    client_key: str | None = None

    def context(self, http2: bool = False) -> ssl.SSLContext:
        """Raises BadFile for a file that holds no certificate, or not the key to it."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.client_cert:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (OSError, ssl.SSLError) as error:  # SSLError is an OSError; named for the reader
            files = ", ".join(filter(None, (self.ca_file, self.client_cert, self.client_key)))
            raise BadFile(
                f"{files}: no certificate or key can be read from there "
                f"({error.strerror or error}). Write PEM files after --ca-file, --client-cert and "
                "--client-key."
            ) from error
        context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
        return context


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
    """With the id of the request, which makes each one that a cache has not seen."""
    if payload.kind == "image-out":
        words = payload.prompts[0] if payload.prompts else "A red apple on a table"
        # The mock reads the size of its answer from here: no field of the request carries it.
        return f"{words} ({MARK}{_ID}-{payload.picture})"
    words = payload.prompts[0] if payload.prompts else "Describe this in one sentence"
    return f"{words} ({MARK}{_ID})"


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
    return {"model": payload.model, "messages": messages, "max_tokens": MAX_TOKENS} | _streamed(
        payload
    )


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
    """One place to send to, with the bytes of each request up to and from its id."""

    host: str
    port: int
    tls: bool
    messages: tuple[tuple[bytes, bytes], ...]  # one for each prompt, taken in turn
    marked: bool
    head: bytes = b""  # of a GET, from its version on
    expected: Expected = field(default_factory=Expected)
    overhead_header: str = ""
    trust: Trust = field(default_factory=Trust)
    http2: bool = False

    def parts(self, number: str, turn: int = 0) -> tuple[bytes, ...]:
        """The request with this id (8 hexadecimal digits), with the prompt whose turn it is."""
        prefix, suffix = self.messages[turn % len(self.messages)]
        return (prefix, number.encode(), suffix) if self.marked else (prefix,)

    def asking(self, url: str) -> tuple[bytes, ...]:
        """A GET of this URL's path, of this very host: what follows a job goes the same way."""
        parts = urlsplit(url)
        query = f"?{parts.query}" if parts.query else ""
        return (f"GET {parts.path or '/'}{query} HTTP/1.1\r\n".encode() + self.head,)

    @property
    def request_bytes(self) -> int:
        """Head and body, of the first prompt."""
        prefix, suffix = self.messages[0]
        return len(prefix) + len(suffix) + (len(_ID) if self.marked else 0)


def endpoint(
    url: str,
    payload: Payload,
    target: str = "openai",
    *,
    key_env: str | None = None,
    headers: Mapping[str, str] | None = None,
    overhead_header: str = "x-litellm-overhead-duration-ms",
    trust: Trust | None = None,
    http2: bool = False,
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
    common = {
        "Host": parts.netloc.rpartition("@")[2],
        "User-Agent": "halftime",
        "Accept": "*/*",
    }
    common |= _user(parts) | _key(key_env, family.key) | dict(headers or {})
    query = f"?{parts.query}" if parts.query else ""
    messages = [
        _message(_body_and_path(one_prompt, family, parts.path), query, common, family)
        for one_prompt in _one_by_one(payload)
    ]
    secure = parts.scheme == "https"
    return Endpoint(
        host=parts.hostname,
        port=parts.port or (443 if secure else 80),
        tls=secure,
        messages=tuple((prefix, suffix) for prefix, _, suffix in messages),
        marked=all(mark for _, mark, _ in messages),
        head=_lines(common) + b"\r\n",
        expected=Expected(target, payload.kind, payload.stream),
        overhead_header=overhead_header,
        trust=trust or Trust(),
        http2=http2,
    )


def _one_by_one(payload: Payload) -> list[Payload]:
    """A payload for each prompt."""
    if not payload.prompts:
        return [payload]
    return [replace(payload, prompts=(prompt,)) for prompt in payload.prompts]


def _message(
    body_and_path: tuple[bytes, str], query: str, common: Mapping[str, str], family: Target
) -> tuple[bytes, bytes, bytes]:
    """The bytes before the request's id, the mark before it, and the bytes after it."""
    body, path = body_and_path
    own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = own | dict(family.headers) | dict(common)
    head = f"POST {path}{query} HTTP/1.1\r\n".encode() + _lines(lines) + b"\r\n"
    prefix, mark, suffix = (head + body).partition((MARK + _ID).encode())
    return (prefix + MARK.encode() if mark else prefix), mark, suffix


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def _user(parts: SplitResult) -> dict[str, str]:
    """Basic authentication, where the URL names a user."""
    if not parts.username and not parts.password:
        return {}
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


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


# the variables that the services themselves tell their users to set
_USUAL_KEYS = {
    "api.openai.com": "OPENAI_API_KEY",
    "api.replicate.com": "REPLICATE_API_TOKEN",
    "fal.run": "FAL_KEY",
    "queue.fal.run": "FAL_KEY",
}


def usual_key(url: str) -> str | None:
    """The variable of a service's key, where the URL is that service's and the variable is set."""
    variable = _USUAL_KEYS.get(urlsplit(url).hostname or "")
    return variable if variable and os.environ.get(variable) else None


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


def headers_of(endpoint: Endpoint) -> dict[str, str]:
    """Those of a GET, the key with them."""
    lines = endpoint.head.decode().splitlines()
    return dict(line.split(": ", 1) for line in lines if line)


def shown(url: str) -> str:
    """A URL without its user, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
