"""The pass-through: one decision a request, bytes untouched.

Requests for the model named `name` are routed; all others go through as they came. Nothing is
stored between requests but counts, and what processes must share of them they share by a file, so
any process manager may run as many as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from halftime.http.disconnect import unless_disconnected
from halftime.http.errors import ApiError
from halftime.records.base import content_hash
from halftime.records.captions import Router
from halftime.verbs.captions.compare import text_of
from halftime.verbs.captions.drift import DECIDED, Drift
from halftime.verbs.captions.features import effort
from halftime.verbs.captions.journal import Journal
from halftime.verbs.captions.judge import AnswerJudge
from halftime.verbs.captions.metrics import CaptionMetrics
from halftime.verbs.captions.pictures import PictureClient
from halftime.verbs.captions.request import (
    MOST_SECONDS,
    CaptionRequest,
    caption_request,
    looked_at,
    warm_up,
)
from halftime.verbs.captions.router import Decision, decide
from halftime.verbs.captions.upstream import (
    FAILURES,
    RawHeaders,
    Upstream,
    UpstreamBroken,
    UpstreamClient,
    end_to_end,
    pieces,
)

logger = logging.getLogger("halftime.captions")
_ROUTED = ("/chat/completions", "/responses")
_READ_BYTES = 2**20  # of an answer, for its words and its token counts
Chat = dict[str, object]


@dataclass(frozen=True)
class PassThroughSettings:
    """What is routed, by which router, and between which models.

    `shadow` is the share of the small model's requests that the large one answers too, unseen by
    the client; the judge then says whether the small answer was acceptable. Without a judge nothing
    is shadowed. On drift the routing goes on, or everything goes `large`.
    """

    router: Router
    small: Upstream
    large: Upstream
    name: str = "captions"
    shadow: float = 0.01
    timeout: float = 300.0  # seconds without a byte from an upstream
    most_seconds: float = MOST_SECONDS  # of one decision
    judge: AnswerJudge | None = None
    on_drift: Literal["warn", "large"] = "warn"
    drift_file: Path | None = None  # shared by all processes of one router
    fetch_from: tuple[str, ...] = ()  # hosts whose pictures by URL are looked at


class PassThrough:
    """An ASGI endpoint for every path."""

    def __init__(self, settings: PassThroughSettings) -> None:
        self.settings = settings
        about = content_hash(settings.router)
        self.drift = Drift(settings.router, Journal(settings.drift_file, about))
        self.metrics = CaptionMetrics(self.drift)
        self._client = UpstreamClient(settings.timeout)
        self._pictures = PictureClient(settings.fetch_from)
        self._shadows: set[asyncio.Task[None]] = set()
        self._random = random.Random()
        warm_up()

    async def close(self) -> None:
        """Give up what runs in the background, and the connections."""
        for task in self._shadows:
            task.cancel()
        await self._client.close()
        await self._pictures.close()
        self.drift.journal.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        try:
            # An answer that nobody waits for is not paid for.
            await unless_disconnected(receive, self._answer(scope, body, send))
        except UpstreamBroken as error:
            # The answer's start is out. Left unfinished, the server closes the connection: the
            # client sees a cut, and does not take half an answer for a whole one.
            self.metrics.errors.labels(error.model).inc()
            logger.warning("%s", error)

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        chat = self._routed_chat(scope, body)
        if chat is None:
            return await self._relay(scope, body, self.settings.large, send)
        begun = time.perf_counter()
        request, values, decision = await self._decided(chat)
        self.metrics.seconds.observe(time.perf_counter() - begun)
        if decision.reason == "ask":
            return await self._cascade(scope, chat, request, values, send)
        return await self._forward(scope, chat, request, decision, send)

    def _routed_chat(self, scope: Scope, body: bytes) -> Chat | None:
        """The request as data; None where it is not for us to route."""
        if scope["method"] != "POST" or not scope["path"].endswith(_ROUTED):
            return None
        try:
            chat = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            return None
        return chat if isinstance(chat, dict) and chat.get("model") == self.settings.name else None

    async def _decided(self, chat: Chat) -> tuple[CaptionRequest, list[float], Decision]:
        """The request, its features where they were looked at, and the decision."""
        router, request = self.settings.router, caption_request(chat)
        if router.threshold is None:
            return request, [], Decision(False, "uncertified")
        if self.settings.on_drift == "large" and self.drift.alarmed():
            return request, [], Decision(False, "drift")
        if request.url and self._pictures.may_fetch(request.url):
            request = request._replace(picture=await self._pictures.fetch(request.url))
        values = await self._look(request)
        if isinstance(values, Decision):
            return request, [], values
        return request, values, decide(router, values)

    async def _look(self, request: CaptionRequest) -> list[float] | Decision:
        """In a thread where the picture is much work."""
        router, most = self.settings.router, self.settings.most_seconds
        if request.picture is None or effort(request.picture) == 1.0:
            return looked_at(router, request, most_seconds=most)
        return await asyncio.to_thread(looked_at, router, request, most_seconds=most)

    async def _forward(
        self, scope: Scope, chat: Chat, request: CaptionRequest, decision: Decision, send: Send
    ) -> None:
        """Ask the model that was decided for; the large one where the small one fails."""
        small, large = self.settings.small, self.settings.large
        if decision.small:
            try:
                answer = await self._open_working(scope, chat, small)
            except FAILURES:
                self.metrics.errors.labels(small.model).inc()
                decision = Decision(False, "failed")
            else:
                self._count(decision)
                text = await self._stream(answer, small, send, _route_headers(decision))
                self._maybe_shadow(scope, chat, request, text)
                return
        self._count(decision)
        await self._relay(scope, _body_for(large, chat), large, send, _route_headers(decision))

    def _count(self, decision: Decision) -> None:
        upstream = self.settings.small if decision.small else self.settings.large
        self.metrics.decisions.labels(upstream.model, decision.reason).inc()
        self.metrics.saved.inc(self.settings.large.price)
        if decision.reason in DECIDED:
            self._watched(partial(self.drift.routed, decision.small))

    def _watched(self, count: Callable[[], None]) -> None:
        """Count, and log the alarms that this raises."""
        before = len(self.drift.alarms)
        count()
        for alarm in self.drift.alarms[before:]:
            logger.warning("drift: %s", alarm)

    async def _relay(
        self,
        scope: Scope,
        body: bytes,
        upstream: Upstream,
        send: Send,
        headers: RawHeaders = (),
    ) -> None:
        """Pass a request on and its answer back, whatever it says.

        Raises ApiError where the upstream cannot be reached.
        """
        try:
            answer = await self._open(scope, body, upstream)
        except FAILURES as error:
            self.metrics.errors.labels(upstream.model).inc()
            message = f"{upstream.model} cannot be reached: {type(error).__name__}."
            raise ApiError(502, message) from error
        await self._stream(answer, upstream, send, headers)

    async def _open(self, scope: Scope, body: bytes, upstream: Upstream) -> aiohttp.ClientResponse:
        query = "?" + scope["query_string"].decode() if scope.get("query_string") else ""
        path = scope["path"].removeprefix("/v1") + query
        headers = end_to_end(scope["headers"])
        return await self._client.open(upstream, scope["method"], path, headers, body)

    async def _open_working(
        self, scope: Scope, chat: Chat, upstream: Upstream
    ) -> aiohttp.ClientResponse:
        """The start of an answer that is not a refusal of any kind. Raises one of FAILURES."""
        answer = await self._open(scope, _body_for(upstream, chat), upstream)
        if answer.status >= 300:
            answer.release()
            raise aiohttp.ClientPayloadError(f"{upstream.model} answered {answer.status}")
        return answer

    async def _stream(
        self,
        answer: aiohttp.ClientResponse,
        upstream: Upstream,
        send: Send,
        headers: RawHeaders = (),
    ) -> bytes:
        """Pass an answer back, piece by piece as it comes; returns its first bytes, at most 1 MiB.

        Raises UpstreamBroken where the upstream stops after the answer's start was sent.
        """
        beginning = bytearray()
        async with answer:
            all_headers = [*end_to_end(answer.raw_headers), *headers]
            if answer.content_length is not None:
                all_headers.append((b"content-length", str(answer.content_length).encode()))
            start = {"type": "http.response.start", "status": answer.status, "headers": all_headers}
            await send(start)
            async for piece in pieces(answer, upstream.model):
                beginning += piece[: max(0, _READ_BYTES - len(beginning))]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.metrics.spend.labels(upstream.model).inc(upstream.spend(bytes(beginning)))
        return bytes(beginning)

    async def _cascade(
        self, scope: Scope, chat: Chat, request: CaptionRequest, values: list[float], send: Send
    ) -> None:
        """Ask the small model, judge its answer, and ask the large one where it is not enough."""
        small, judge = self.settings.small, self.settings.judge
        if judge is None or request.picture is None:
            decision = Decision(False, "uncertified")
            return await self._forward(scope, chat, request, decision, send)
        held = _HeldAnswer()
        try:
            text = await self._stream(await self._open_working(scope, chat, small), small, held)
        except (*FAILURES, UpstreamBroken):
            self.metrics.errors.labels(small.model).inc()
            return await self._forward(scope, chat, request, Decision(False, "failed"), send)
        score = await self._judged(judge, request, text)
        if score is None:
            return await self._forward(scope, chat, request, Decision(False, "failed"), send)
        decision = decide(self.settings.router, [*values, score])
        if not decision.small:
            decision = Decision(False, "check", decision.probability)
            return await self._forward(scope, chat, request, decision, send)
        self._count(decision)
        await held.release(send, _route_headers(decision))
        return self._maybe_shadow(scope, chat, request, text)

    async def _judged(
        self, judge: AnswerJudge, request: CaptionRequest, answer: bytes
    ) -> float | None:
        """The judge's score of an answer; None, and a line in the log, where it has none."""
        assert request.picture is not None
        try:
            score = await asyncio.to_thread(judge, request.picture, request.prompt, text_of(answer))
            if math.isfinite(score):
                return score
            logger.warning("the judge gave %s, which is no score", score)
        except Exception as error:  # it is the user's own code, and may quote what a client sent
            logger.warning("the judge raised %s", type(error).__name__)
        return None

    def _maybe_shadow(
        self, scope: Scope, chat: Chat, request: CaptionRequest, small_answer: bytes
    ) -> None:
        judge = self.settings.judge
        if judge is not None and self._random.random() < self.settings.shadow:
            task = asyncio.ensure_future(self._shadow(judge, scope, chat, request, small_answer))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(
        self,
        judge: AnswerJudge,
        scope: Scope,
        chat: Chat,
        request: CaptionRequest,
        small_answer: bytes,
    ) -> None:
        """Ask the large model too, and let the judge say whether the small answer will do."""
        large = self.settings.large
        try:
            answer = await self._open_working(scope, chat, large)
            large_answer = await self._stream(answer, large, _HeldAnswer())
        except (*FAILURES, UpstreamBroken):
            return
        small_score = await self._judged(judge, request, small_answer)
        large_score = await self._judged(judge, request, large_answer)
        if small_score is None or large_score is None:
            return
        acceptable = small_score >= large_score - self.settings.router.tolerance - 1e-12
        self._watched(partial(self.drift.judged, acceptable))
        self.metrics.shadowed.labels(str(acceptable).lower()).inc()


class _HeldAnswer:
    """An ASGI `send` that keeps an answer's messages, to release them later or never."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self._messages.append(message)

    async def release(self, send: Send, headers: RawHeaders) -> None:
        start, *body = self._messages
        for message in ({**start, "headers": [*start["headers"], *headers]}, *body):
            await send(message)


def _body_for(upstream: Upstream, chat: Chat) -> bytes:
    """The request with the upstream's own name for its model."""
    return msgspec.json.encode(chat | {"model": upstream.model})


def _route_headers(decision: Decision) -> RawHeaders:
    headers = {
        "x-halftime-route": "small" if decision.small else "large",
        "x-halftime-reason": decision.reason,
    }
    if decision.probability is not None:
        headers["x-halftime-probability"] = f"{decision.probability:.4f}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]
