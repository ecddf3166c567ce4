"""An OpenAI-shaped request, read for routing: its prompt, its picture, its shape, the decision.

What was calibrated is one user message with words and one picture. All else that changes an answer
(a system prompt, earlier turns, tools, a schema, several answers, audio) is the request's shape,
and goes to the large model unless the log had requests of exactly that shape.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from PIL import Image

from halftime.records.base import content_hash
from halftime.records.captions import Router
from halftime.verbs.captions import features
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.router import Decision, Reason, decide
from halftime.verbs.captions.rules import barring

MOST_SECONDS = 0.05  # that one decision may take, times the effort of its picture
# What says where an answer goes, who asks, how long it may be or how it is sampled: both models get
# it alike.
_FREE = {
    *("model", "messages", "input", "stream", "stream_options", "user", "metadata", "store"),
    *("seed", "temperature", "top_p", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("frequency_penalty", "presence_penalty", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "timeout"),
}
_DEFAULTS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("auto", "none"),
    "function_call": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "text": ({}, {"format": {"type": "text"}}),
    "modalities": (["text"],),
    "logprobs": (False,),
    "logit_bias": ({},),
    "truncation": ("disabled",),
    "background": (False,),
    "include": ([],),
}
_TEXTS, _PICTURES = ("text", "input_text"), ("image_url", "input_image")


class CaptionRequest(NamedTuple):
    """The last user message: its words and its picture, or the reason why none can be used.

    `shape` is '' for a plain request, and otherwise names all that makes it another kind; `url` is
    where a picture is that did not come with the request.
    """

    prompt: str
    picture: bytes | None
    reason: Reason = "no picture"
    shape: str = ""
    url: str = ""


def caption_request(body: Mapping[str, object]) -> CaptionRequest:
    """Read a request of /v1/chat/completions or /v1/responses; never raises."""
    try:
        return _read(body)
    except Exception:  # a router must not fail a request that the large model can answer
        return CaptionRequest("", None, "not understood")


def _read(body: Mapping[str, object]) -> CaptionRequest:
    parts, surroundings = _parts(body)
    texts, images, foreign = [], [], []
    for part in parts:
        if part.get("type") in _TEXTS:
            texts.append(str(part.get("text", "")))
        elif part.get("type") in _PICTURES:
            images.append(_image(part))
        else:
            foreign.append(part)
    shape = _shape(body, surroundings, foreign, images)
    prompt = "\n".join(texts)
    if len(images) != 1:
        return CaptionRequest(prompt, None, "many pictures" if images else "no picture", shape)
    url = images[0][0]
    if not url.startswith("data:"):
        return CaptionRequest(prompt, None, "picture by url", shape, url)
    try:
        return CaptionRequest(prompt, _decoded(url.partition(",")[2]), shape=shape)
    except (binascii.Error, ValueError):
        return CaptionRequest(prompt, None, "not seen", shape)


def _image(part: Mapping[str, object]) -> tuple[str, str]:
    """A picture's URL, and in how much detail it is to be looked at."""
    image = part.get("image_url")
    if isinstance(image, Mapping):
        return str(image.get("url", "")), str(image.get("detail") or "auto")
    return str(image or ""), str(part.get("detail") or "auto")


def _parts(body: Mapping[str, object]) -> tuple[list[Mapping[str, object]], list[object]]:
    """The parts of the last user message, and all other messages."""
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):  # /v1/responses takes words alone, too
        return [{"type": "text", "text": messages}], []
    if not isinstance(messages, list):
        return [], []
    by_user = [
        rank
        for rank, message in enumerate(messages)
        if isinstance(message, Mapping) and message.get("role") == "user"
    ]
    if not by_user:
        return [], messages
    last = messages[by_user[-1]]
    surroundings = [message for rank, message in enumerate(messages) if rank != by_user[-1]]
    content = last.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}], surroundings
    items = content if isinstance(content, list) else []
    return [part for part in items if isinstance(part, Mapping)], surroundings


def _shape(
    body: Mapping[str, object],
    surroundings: list[object],
    foreign: list[Mapping[str, object]],
    images: list[tuple[str, str]],
) -> str:
    settings = {
        name: value
        for name, value in body.items()
        if name not in _FREE and value is not None and value not in _DEFAULTS.get(name, ())
    }
    details = [detail for _, detail in images if detail != "auto"]
    if not (settings or surroundings or foreign or details):
        return ""
    try:
        return content_hash([settings, surroundings, foreign, details])
    except (TypeError, msgspec.MsgspecError, RecursionError):
        return "unknown"


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
    request = caption_request(chat)
    if clock() - begun > most_seconds:
        return Decision(False, "timeout")
    return choose_for(router, request, check=check, clock=clock, most_seconds=most_seconds)


def choose_for(
    router: Router,
    request: CaptionRequest,
    *,
    check: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    most_seconds: float = MOST_SECONDS,
) -> Decision:
    """The decision for a request that has been read; never raises."""
    look = looked_at(router, request, clock=clock, most_seconds=most_seconds)
    if isinstance(look, Decision):
        return look
    return decide(router, look if check is None else [*look, check])


def looked_at(
    router: Router,
    request: CaptionRequest,
    *,
    clock: Callable[[], float] = time.perf_counter,
    most_seconds: float = MOST_SECONDS,
) -> list[float] | Decision:
    """A request's features; or the decision, where none are needed or none can be had in time."""
    if router.threshold is None:
        return Decision(False, "uncertified")
    if request.picture is None:
        return Decision(False, request.reason)
    if request.shape and request.shape not in router.shapes:
        return Decision(False, "not calibrated")
    begun = clock()
    try:
        values = [*features.of_picture(request.picture), *features.of_prompt(request.prompt)]
        if barring(router.never_small, request.prompt, math.exp(values[0])):
            return Decision(False, "rule")
        late = clock() - begun > most_seconds * features.effort(request.picture)
    except features.NotSeen:
        return Decision(False, "not seen")
    except Exception:  # as when it is read
        return Decision(False, "not understood")
    return Decision(False, "timeout") if late else values
