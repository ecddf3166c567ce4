"""An OpenAI-shaped chat request, read for routing: its prompt, its picture, and the decision."""

from __future__ import annotations

import base64
import binascii
import io
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from PIL import Image

from halftime.records.captions import Router
from halftime.verbs.captions import features
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.router import Decision, Reason, decide

MOST_SECONDS = 0.05  # that one decision may take; after that the large model answers


class CaptionRequest(NamedTuple):
    """The last user message: its words and its picture, or the reason why none can be used."""

    prompt: str
    picture: bytes | None
    reason: Reason = "no picture"


def caption_request(chat: Mapping[str, object]) -> CaptionRequest:
    """Read the last user message of a chat request; nothing else of it is looked at."""
    texts, urls = [], []
    for part in _parts(chat):
        if part.get("type") == "text":
            texts.append(str(part.get("text", "")))
        elif part.get("type") == "image_url":
            image = part.get("image_url")
            urls.append(str(image.get("url", "")) if isinstance(image, Mapping) else str(image))
    prompt = "\n".join(texts)
    if len(urls) != 1:
        return CaptionRequest(prompt, None, "many pictures" if urls else "no picture")
    if not urls[0].startswith("data:"):
        return CaptionRequest(prompt, None, "picture by url")
    try:
        return CaptionRequest(prompt, _decoded(urls[0].partition(",")[2]))
    except (binascii.Error, ValueError):
        return CaptionRequest(prompt, None, "not seen")


def _parts(chat: Mapping[str, object]) -> list[Mapping[str, object]]:
    messages = _mappings(chat.get("messages"))
    by_user = [message for message in messages if message.get("role") == "user"]
    content = by_user[-1].get("content") if by_user else None
    return [{"type": "text", "text": content}] if isinstance(content, str) else _mappings(content)


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _decoded(text: str) -> bytes:
    return bytes(need("pybase64").b64decode(text, validate=True))


def warm_up() -> None:
    """Import and initialise what a decision needs, before the first request would pay for it."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    features.of_picture(_decoded(base64.b64encode(buffer.getvalue()).decode()))


def choose(
    router: Router,
    chat: Mapping[str, object],
    *,
    check: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    most_seconds: float = MOST_SECONDS,
) -> Decision:
    """The decision for one request; never raises.

    `check` is the judge's score of the small answer, for a cascade. Whatever cannot be read, seen
    or decided in time goes to the large model.
    """
    if router.threshold is None:
        return Decision(False, "uncertified")
    begun = clock()
    try:
        request = caption_request(chat)
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
