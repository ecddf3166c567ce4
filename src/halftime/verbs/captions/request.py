"""An OpenAI-shaped chat request, read for routing: its prompt, its one picture, and the decision,
with a time limit."""

from __future__ import annotations

import base64
import binascii
import io
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from PIL import Image

from halftime.base.extras import optional
from halftime.records.captions import Router
from halftime.verbs.captions import features
from halftime.verbs.captions.router import Decision, Reason, decide

MOST_SECONDS = 0.05  # that one decision may take; later it is the large model's


class Asked(NamedTuple):
    """What a request asks: the words of its last user message and its picture, or why there is none
    to look at."""

    prompt: str
    picture: bytes | None
    reason: Reason = "no picture"


def asked(data: Mapping[str, object]) -> Asked:
    """Read the last user message of a chat request; nothing else of it is looked at."""
    texts, urls = [], []
    for part in _parts(data):
        if part.get("type") == "text":
            texts.append(str(part.get("text", "")))
        elif part.get("type") == "image_url":
            image = part.get("image_url")
            urls.append(str(image.get("url", "")) if isinstance(image, Mapping) else str(image))
    prompt = "\n".join(texts)
    if len(urls) != 1:
        return Asked(prompt, None, "many pictures" if urls else "no picture")
    if not urls[0].startswith("data:"):
        return Asked(prompt, None, "picture by url")
    try:
        return Asked(prompt, _decoded(urls[0].partition(",")[2]))
    except (binascii.Error, ValueError):
        return Asked(prompt, None, "not seen")


def _parts(data: Mapping[str, object]) -> list[Mapping[str, object]]:
    users = [
        message for message in _mappings(data.get("messages")) if message.get("role") == "user"
    ]
    content = users[-1].get("content") if users else None
    return [{"type": "text", "text": content}] if isinstance(content, str) else _mappings(content)


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _decoded(text: str) -> bytes:
    decode = optional("pybase64", "captions", "halftime captions").b64decode
    return bytes(decode(text, validate=True))


def warm_up() -> None:
    """Import and initialise what a decision needs, so that the first request does not pay for
    it."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    features.of_picture(_decoded(base64.b64encode(buffer.getvalue()).decode()))


def choose(
    router: Router,
    data: Mapping[str, object],
    *,
    check: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    most_seconds: float = MOST_SECONDS,
) -> Decision:
    """The decision for one request; never raises. `check` is the judge's score where the router is
    a cascade's.

    Whatever cannot be read, seen or decided in time goes to the large model.
    """
    if router.threshold is None:
        return Decision(False, "uncertified")
    begun = clock()
    try:
        request = asked(data)
        if request.picture is None:
            return Decision(False, request.reason)
        if clock() - begun > most_seconds:
            return Decision(False, "timeout")
        values = [*features.of_picture(request.picture), *features.of_prompt(request.prompt)]
    except features.NotSeen:
        return Decision(False, "not seen")
    except Exception:  # a router must not fail a request that the large model can answer
        return Decision(False, "not understood")
    if clock() - begun > most_seconds:
        return Decision(False, "timeout")
    return decide(router, values if check is None else [*values, check])
