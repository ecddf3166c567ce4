"""The pass-through: one decision a request, bytes untouched.

Requests for the model named `name` are routed; all others go through as they came. Nothing is
stored between requests but counts, so any process manager may run as many as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from halftime.http.disconnect import unless_disconnected
from halftime.http.errors import ApiError
from halftime.records.captions import Router
from halftime.verbs.captions.compare import same, text_of
from halftime.verbs.captions.drift import Drift
from halftime.verbs.captions.judge import AnswerJudge
from halftime.verbs.captions.metrics import CaptionMetrics
from halftime.verbs.captions.request import MOST_SECONDS, caption_request, choose, warm_up
from halftime.verbs.captions.router import Decision
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
_READ_BYTES = 2**20  # of an answer, for its words and its token counts
Chat = dict[str, object]


@dataclass(frozen=True)
class PassThroughSettings:
    """What is routed, by which router, and between which models.

    `shadow` is the share of the small model's requests that the large one answers too, unseen by
    the client.
    """

    router: Router
    small: Upstream
    large: Upstream
    name: str = "captions"
    shadow: float = 0.01
    timeout: float = 300.0  # seconds without a byte from an upstream
    most_seconds: float = MOST_SECONDS  # of one decision
    judge: AnswerJudge | None = None


class PassThrough:
    """An ASGI endpoint for every path."""

    def __init__(self, settings: PassThroughSettings) -> None:
        self.settings = settings
        self.drift = Drift(settings.router)
        self.metrics = CaptionMetrics(self.drift)
        self._client = UpstreamClient(settings.timeout)
        self._shadows: set[asyncio.Task[None]] = set()
        self._random = random.Random()
        warm_up()

    async def close(self) -> None:
        """Give up what runs in the background, and the connections."""
        for task in self._shadows:
            task.cancel()
        await self._client.close()

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
        router, chat = self.settings.router, self._routed_chat(scope, body)
        if chat is None:
            await self._relay(scope, body, self.settings.large, send)
        elif router.mode == "cascade" and router.threshold is not None:
            await self._cascade(scope, chat, send)
        else:
            begun = time.perf_counter()
            decision = choose(router, chat, most_seconds=self.settings.most_seconds)
            self.metrics.seconds.observe(time.perf_counter() - begun)
            await self._forward(scope, chat, decision, send)

    def _routed_chat(self, scope: Scope, body: bytes) -> Chat | None:
        """The request as data; None where it is not for us to route."""
        if scope["method"] != "POST" or not scope["path"].endswith("/chat/completions"):
            return None
        try:
            chat = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            return None
        return chat if isinstance(chat, dict) and chat.get("model") == self.settings.name else None

    async def _forward(self, scope: Scope, chat: Chat, decision: Decision, send: Send) -> None:
        """Ask the model that was decided for; the large one where the small one fails."""
        self._count(decision)
        small, large = self.settings.small, self.settings.large
        if decision.small:
            try:
                answer = await self._open_working(scope, chat, small)
            except FAILURES:
                self.metrics.errors.labels(small.model).inc()
                decision = Decision(False, "failed")
            else:
                text = await self._stream(answer, small, send, _route_headers(decision))
                self._maybe_shadow(scope, chat, text)
                return
        await self._relay(scope, _body_for(large, chat), large, send, _route_headers(decision))

    def _count(self, decision: Decision) -> None:
        upstream = self.settings.small if decision.small else self.settings.large
        self.metrics.decisions.labels(upstream.model, decision.reason).inc()
        self.metrics.saved.inc(self.settings.large.price)
        self.drift.routed(decision.small)

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
        """The start of an answer that is not the upstream's failure. Raises one of FAILURES."""
        answer = await self._open(scope, _body_for(upstream, chat), upstream)
        if answer.status >= 500:
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

    async def _cascade(self, scope: Scope, chat: Chat, send: Send) -> None:
        """Ask the small model, judge its answer, and ask the large one where it is not enough."""
        request, small = caption_request(chat), self.settings.small
        if self.settings.judge is None:
            return await self._forward(scope, chat, Decision(False, "uncertified"), send)
        if request.picture is None:
            return await self._forward(scope, chat, Decision(False, request.reason), send)
        held = _HeldAnswer()
        try:
            text = await self._stream(await self._open_working(scope, chat, small), small, held)
            score = await asyncio.to_thread(
                self.settings.judge, request.picture, request.prompt, text_of(text)
            )
            decision = choose(
                self.settings.router, chat, check=score, most_seconds=self.settings.most_seconds
            )
        except (*FAILURES, UpstreamBroken, ValueError):
            self.metrics.errors.labels(small.model).inc()
            decision = Decision(False, "failed")
        if decision.small and held.status < 400:
            self._count(decision)
            return await held.release(send, _route_headers(decision))
        decision = Decision(False, "check", decision.probability)
        return await self._forward(scope, chat, decision, send)

    def _maybe_shadow(self, scope: Scope, chat: Chat, small_answer: bytes) -> None:
        if self._random.random() < self.settings.shadow:
            task = asyncio.ensure_future(self._shadow(scope, chat, small_answer))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(self, scope: Scope, chat: Chat, small_answer: bytes) -> None:
        """Ask the large model too, and count whether it says the same."""
        large = self.settings.large
        try:
            answer = await self._open_working(scope, chat, large)
            large_answer = await self._stream(answer, large, _HeldAnswer())
        except (*FAILURES, UpstreamBroken):
            return
        acceptable = same(text_of(small_answer), text_of(large_answer))
        before = len(self.drift.alarms)
        self.drift.judged(acceptable)
        self.metrics.shadowed.labels(str(acceptable).lower()).inc()
        for alarm in self.drift.alarms[before:]:
            logger.warning("drift: %s", alarm)


class _HeldAnswer:
    """An ASGI `send` that keeps an answer's messages, to release them later or never."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self._messages.append(message)

    @property
    def status(self) -> int:
        return int(self._messages[0]["status"]) if self._messages else 599

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
