"""The pass-through: one decision a request, bytes untouched.

Requests for the model named `name` are routed; all others go through as they came. A chain of
models is walked from the cheapest on, each with a router of its own. Nothing is
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
from typing import Literal, NamedTuple

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
class RoutedModel:
    """A model and the router that says which requests it answers."""

    router: Router
    upstream: Upstream
    role: str = "small"


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
    between: tuple[RoutedModel, ...] = ()  # of a chain, the cheapest first

    @property
    def routed_models(self) -> tuple[RoutedModel, ...]:
        """All but the large one, in the order in which they are tried."""
        return (RoutedModel(self.router, self.small), *self.between)


class PassThrough:
    """An ASGI endpoint for every path."""

    def __init__(self, settings: PassThroughSettings) -> None:
        self.settings = settings
        self.drifts = tuple(
            Drift(model.router, _journal(settings.drift_file, number, model))
            for number, model in enumerate(settings.routed_models)
        )
        self.metrics = CaptionMetrics(self.drifts)
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
        for drift in self.drifts:
            drift.journal.close()

    @property
    def alarms(self) -> list[str]:
        """Of all routers."""
        return [alarm for drift in self.drifts for alarm in drift.alarms]

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
        request, look = await self._looked(chat)
        decisions = self._decisions(look)
        self.metrics.seconds.observe(time.perf_counter() - begun)
        live = _Live(scope, chat, request, send)
        for number, decision in enumerate(decisions):
            if decision.reason == "ask" and isinstance(look, list):
                decisions[number] = await self._cascade(live, number, look)
            elif decision.small:
                decisions[number] = await self._forward(live, number, decision)
            self._watch(number, decisions[number])
            if decisions[number].small:
                return None
            if decisions[number].reason == "failed":
                # the routers after it were certified on what those before it decided
                return await self._answer_large(live, decisions[number])
        return await self._answer_large(live, decisions[-1])

    def _routed_chat(self, scope: Scope, body: bytes) -> Chat | None:
        """The request as data; None where it is not for us to route."""
        if scope["method"] != "POST" or not scope["path"].endswith(_ROUTED):
            return None
        try:
            chat = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            return None
        return chat if isinstance(chat, dict) and chat.get("model") == self.settings.name else None

    def _decisions(self, look: list[float] | Decision) -> list[Decision]:
        """One for each model but the large one; a single one where none may answer."""
        if isinstance(look, Decision):
            return [look]
        return [decide(model.router, look) for model in self.settings.routed_models]

    async def _looked(self, chat: Chat) -> tuple[CaptionRequest, list[float] | Decision]:
        """The request, and its features, or the decision where none are needed."""
        request = caption_request(chat)
        routers = [model.router for model in self.settings.routed_models]
        certified = [router for router in routers if router.threshold is not None]
        if not certified:
            return request, Decision(False, "uncertified")
        if self.settings.on_drift == "large" and any(drift.alarmed() for drift in self.drifts):
            return request, Decision(False, "drift")
        if request.url and self._pictures.may_fetch(request.url):
            request = request._replace(picture=await self._pictures.fetch(request.url))
        return request, await self._look(certified[0], request)

    async def _look(self, router: Router, request: CaptionRequest) -> list[float] | Decision:
        """In a thread where the picture is much work."""
        most = self.settings.most_seconds
        if request.picture is None or effort(request.picture) == 1.0:
            return looked_at(router, request, most_seconds=most)
        return await asyncio.to_thread(looked_at, router, request, most_seconds=most)

    async def _forward(self, live: _Live, number: int, decision: Decision) -> Decision:
        """Ask the model that was decided for, and pass its answer on.

        'failed' where it has none.
        """
        model = self.settings.routed_models[number]
        try:
            answer = await self._open_working(live.scope, live.chat, model.upstream)
        except FAILURES:
            self.metrics.errors.labels(model.upstream.model).inc()
            return Decision(False, "failed")
        self._count(model.upstream, decision)
        headers = _route_headers(decision, model.role)
        text = await self._stream(answer, model.upstream, live.send, headers)
        self._maybe_shadow(live, number, text)
        return decision

    async def _answer_large(self, live: _Live, decision: Decision) -> None:
        large = self.settings.large
        self._count(large, decision)
        headers = _route_headers(decision, "large")
        await self._relay(live.scope, _body_for(large, live.chat), large, live.send, headers)

    def _count(self, upstream: Upstream, decision: Decision) -> None:
        self.metrics.decisions.labels(upstream.model, decision.reason).inc()
        self.metrics.saved.inc(self.settings.large.price)

    def _watch(self, number: int, decision: Decision) -> None:
        if decision.reason in DECIDED:
            self._watched(number, partial(self.drifts[number].routed, decision.small))

    def _watched(self, number: int, count: Callable[[], None]) -> None:
        """Count, and log the alarms that this raises."""
        before = len(self.drifts[number].alarms)
        count()
        for alarm in self.drifts[number].alarms[before:]:
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

    async def _cascade(self, live: _Live, number: int, values: list[float]) -> Decision:
        """Ask a model, judge its answer, and pass it on where that is enough."""
        model, judge = self.settings.routed_models[number], self.settings.judge
        upstream = model.upstream
        if judge is None or live.request.picture is None:
            return Decision(False, "uncertified")
        held = _HeldAnswer()
        try:
            answer = await self._open_working(live.scope, live.chat, upstream)
            text = await self._stream(answer, upstream, held)
        except (*FAILURES, UpstreamBroken):
            self.metrics.errors.labels(upstream.model).inc()
            return Decision(False, "failed")
        score = await self._judged(judge, live.request, text)
        if score is None:
            return Decision(False, "failed")
        decision = decide(model.router, [*values, score])
        if not decision.small:
            return Decision(False, "check", decision.probability)
        self._count(upstream, decision)
        await held.release(live.send, _route_headers(decision, model.role))
        self._maybe_shadow(live, number, text)
        return decision

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

    def _maybe_shadow(self, live: _Live, number: int, answer: bytes) -> None:
        judge = self.settings.judge
        if judge is not None and self._random.random() < self.settings.shadow:
            task = asyncio.ensure_future(self._shadow(judge, live, number, answer))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(self, judge: AnswerJudge, live: _Live, number: int, answer: bytes) -> None:
        """Ask the large model too, and let the judge say whether the other answer will do."""
        large = self.settings.large
        try:
            opened = await self._open_working(live.scope, live.chat, large)
            large_answer = await self._stream(opened, large, _HeldAnswer())
        except (*FAILURES, UpstreamBroken):
            return
        score = await self._judged(judge, live.request, answer)
        large_score = await self._judged(judge, live.request, large_answer)
        if score is None or large_score is None:
            return
        acceptable = score >= large_score - self.settings.router.tolerance - 1e-12
        self._watched(number, partial(self.drifts[number].judged, acceptable))
        self.metrics.shadowed.labels(str(acceptable).lower()).inc()


class _Live(NamedTuple):
    """One routed request, and where its answer goes."""

    scope: Scope
    chat: Chat
    request: CaptionRequest
    send: Send


def _journal(file: Path | None, number: int, model: RoutedModel) -> Journal:
    """Of the first router the file itself; of those after it one beside it."""
    if file is not None and number:
        file = file.with_name(f"{file.name}.{number}")
    return Journal(file, content_hash(model.router))


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


def _route_headers(decision: Decision, role: str) -> RawHeaders:
    headers = {
        "x-halftime-route": role,
        "x-halftime-reason": decision.reason,
    }
    if decision.probability is not None:
        headers["x-halftime-probability"] = f"{decision.probability:.4f}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]
