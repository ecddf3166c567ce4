"""Write a log: send requests to all models, and let a judge say how good each answer is.

One failure costs one request: it is left out, with its reason, and every line that was paid for
stays.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import aiohttp

from halftime.base.errors import BadInput, HalftimeError
from halftime.base.progress import Progress
from halftime.records.captions import Answer, Between, Check, Logged
from halftime.verbs.captions import features
from halftime.verbs.captions.compare import text_of
from halftime.verbs.captions.judge import AnswerJudge
from halftime.verbs.captions.log import picture_of
from halftime.verbs.captions.pictures import PictureClient
from halftime.verbs.captions.request import caption_request
from halftime.verbs.captions.requests_file import CollectedRequest, data_url, is_url
from halftime.verbs.captions.upstream import FAILURES, Upstream

PAUSES = (1.0, 2.0, 4.0)  # seconds before a request that failed is sent again
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After says
# requests that a model or the judge may fail before the run stops: each costs money and minutes
MOST_IN_A_ROW = 10
_STREAMED = {"stream", "stream_options"}  # the log needs an answer in one piece
_PASSING = {408, 425, 429}  # and 5xx: the same request may be answered later
_NOT_THE_REQUEST = {401, 403, 404}  # the key, the address or the model's name


Body = dict[str, object]


class CollectedAnswer(NamedTuple):
    """A model's answer with its price and its time."""

    text: str
    cost: float
    seconds: float


class LeftOut(NamedTuple):
    """A request without a line in the log.

    `kind` is the reason that several may share, `why` is its own.
    """

    kind: str
    why: str
    general: bool = False  # the next request may well fail for the same reason


@dataclass(frozen=True)
class CollectionPlan:
    """Whom to ask and who judges.

    Pictures named by path are in `folder`; the log will be in `log_folder`.
    """

    small: Upstream
    large: Upstream
    judge: AnswerJudge
    judge_name: str
    folder: Path
    log_folder: Path
    between: tuple[Upstream, ...] = ()  # further models, the cheapest first
    fetch_from: tuple[str, ...] = ()  # hosts of pictures by URL


class FailedRequest(Exception):
    """One request cannot be logged.

    `general`: the next one may well fail for the same reason; `passing`: the same one may be
    answered later, `wait` seconds from now where the model says so.
    """

    def __init__(
        self,
        kind: str,
        why: str,
        *,
        general: bool = False,
        passing: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(why)
        self.kind, self.general, self.passing, self.wait = kind, general, passing, wait


def missing_requests(
    requests: Sequence[CollectedRequest], logged: Sequence[Logged], plan: CollectionPlan
) -> list[CollectedRequest]:
    """Requests without a line in the log; one that is in the requests twice needs two lines."""
    lines = Counter((row.id, row.url or row.image, row.prompt) for row in logged)
    missing = []
    for request in requests:
        key = (request.id, _image_beside_log(request.image, plan), request.prompt)
        lines[key] -= 1
        if lines[key] < 0:
            missing.append(request)
    return missing


def collect(
    requests: Sequence[CollectedRequest],
    plan: CollectionPlan,
    progress: Progress,
    concurrency: int = 1,
) -> Iterator[Logged | LeftOut]:
    """Ask both models; yield each request's line as it comes, or why it has none.

    The first request is asked alone, since it shows whether models and judge are there. Raises
    BadInput where a model cannot be reached or the judge's first answer is not a number,
    HalftimeError after MOST_IN_A_ROW failures in a row.
    """
    with asyncio.Runner() as runner:
        collection = _Collection(runner.run(_session()), plan)
        waiting, running = deque(requests), _Running()
        in_a_row = 0
        try:
            while waiting or running.tasks:
                most = concurrency if collection.judged else 1
                while waiting and len(running.tasks) < most:
                    runner.run(running.start(collection.logged(waiting.popleft())))
                left = len(waiting) + len(running.tasks)
                progress("asking the models", len(requests) - left, len(requests))
                runner.run(running.wait())
                for result in running.finished():
                    general = isinstance(result, LeftOut) and result.general
                    in_a_row = in_a_row + general if isinstance(result, LeftOut) else 0
                    yield result
                if in_a_row >= MOST_IN_A_ROW:
                    raise HalftimeError(f"stopped after {in_a_row} failures in a row")
        except KeyboardInterrupt:  # what has been answered by now was paid for
            yield from running.finished()
            raise
        finally:
            runner.run(running.cancel())
            runner.run(collection.client.close())
            runner.run(collection.pictures.close())


class _Running:
    """The requests that are being asked."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Logged | LeftOut]] = set()

    async def start(self, work: Coroutine[None, None, Logged | LeftOut]) -> None:
        self.tasks.add(asyncio.ensure_future(work))

    async def wait(self) -> None:
        await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)

    def finished(self) -> Iterator[Logged | LeftOut]:
        """Each result so far, once. Raises what a request raised that no other would survive."""
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled():
                yield task.result()

    async def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _session() -> aiohttp.ClientSession:  # needs a running loop
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))


class _Collection:
    """State of one collection: its client, which models have answered, whether the judge has."""

    def __init__(self, client: aiohttp.ClientSession, plan: CollectionPlan) -> None:
        self.client, self.plan = client, plan
        self.pictures = PictureClient(plan.fetch_from)
        self._heard: set[str] = set()  # URLs that answered, whatever they said
        self.judged = False

    async def logged(self, request: CollectedRequest) -> Logged | LeftOut:
        """A line of the log, or why there is none."""
        try:
            return await self._line(request)
        except FailedRequest as error:
            name = request.id or request.image[:60]
            return LeftOut(error.kind, f"{name}: {error}", error.general)

    async def _line(self, request: CollectedRequest) -> Logged:
        """A line of the log. Raises FailedRequest."""
        plan = self.plan
        by_url = is_url(request.image)
        try:
            picture = await self._picture(request)
            features.thumbnail(picture)
        except features.NotSeen as error:
            raise FailedRequest("the picture cannot be used", str(error)) from error
        body = request.body or _plain_body(
            request.prompt, request.image if by_url else data_url(picture)
        )
        # Judged before a dearer model is paid: a judge that cannot be used shows at the first
        # answer.
        small, check = await self._checked(plan.small, body, picture, request.prompt)
        between = []
        for upstream in plan.between:
            answer, look = await self._checked(upstream, body, picture, request.prompt)
            between.append(Between(answer=answer, check=look))
        large = await self._ask(plan.large, body)
        return Logged(
            id=request.id,
            prompt=request.prompt,
            image=data_url(picture) if by_url else _image_beside_log(request.image, plan),
            url=request.image if by_url else "",
            slice=request.slice,
            heavy=request.heavy,
            small=small,
            large=_answer(large, self._score(picture, request.prompt, large.text)),
            check=check,
            shape=caption_request(body).shape,
            between=tuple(between),
        )

    async def _picture(self, request: CollectedRequest) -> bytes:
        """Raises NotSeen, or FailedRequest where a host does not give it."""
        if not is_url(request.image):
            return picture_of(request.image, self.plan.folder)
        picture = await self.pictures.fetch(request.image)
        if picture is None:
            raise FailedRequest("the picture cannot be fetched", request.image)
        return picture

    async def _checked(
        self, upstream: Upstream, body: Body, picture: bytes, prompt: str
    ) -> tuple[Answer, Check]:
        """A model's answer, and the judge's look at it."""
        answer = await self._ask(upstream, body)
        begun = time.perf_counter()
        score = self._score(picture, prompt, answer.text)
        check = Check(score=score, seconds=time.perf_counter() - begun)
        return _answer(answer, score), check

    def _score(self, picture: bytes, prompt: str, text: str) -> float:
        name = self.plan.judge_name
        try:
            score: object = self.plan.judge(picture, prompt, text)
        except Exception as error:  # it is the user's own code
            raise FailedRequest(
                f"--judge {name} raised {type(error).__name__}", str(error), general=True
            ) from error
        if isinstance(score, Real) and math.isfinite(score):
            self.judged = True
            return float(score)
        words = (
            f"--judge {name!r} returned {score!r:.60}, and a judge returns a finite number, such "
            "as 0.93: how good the answer is."
        )
        if not self.judged:
            raise BadInput(f"{words} Correct it and run again.")
        raise FailedRequest(f"--judge {name} returned no number", words, general=True)

    async def _ask(self, upstream: Upstream, body: Body) -> CollectedAnswer:
        """One model's answer; what may pass is tried again.

        Raises FailedRequest, or BadInput where the model cannot be reached at all.
        """
        for pause in PAUSES:
            try:
                return await self._once(upstream, body)
            except FailedRequest as error:
                if not error.passing:
                    raise
                await asyncio.sleep(pause if error.wait is None else min(error.wait, LONGEST_PAUSE))
        return await self._once(upstream, body)

    async def _once(self, upstream: Upstream, body: Body) -> CollectedAnswer:
        begun = time.perf_counter()
        try:
            status, data, wait = await self._sent(upstream, body)
        except FAILURES as error:
            self._check_there(upstream, error)
            raise FailedRequest(
                f"{upstream.model} gave no answer", _reason(error), general=True, passing=True
            ) from error
        self._heard.add(upstream.url)
        if status == 200:
            seconds = time.perf_counter() - begun
            return CollectedAnswer(text_of(data), upstream.spend(data), seconds)
        passing = status >= 500 or status in _PASSING
        why = data[:200].decode(errors="replace").strip() or "it said nothing"
        general = passing or status in _NOT_THE_REQUEST
        raise FailedRequest(
            f"{upstream.model} answered {status}", why, general=general, passing=passing, wait=wait
        )

    async def _sent(self, upstream: Upstream, body: Body) -> tuple[int, bytes, float | None]:
        """Status, body, and the seconds that Retry-After asks for."""
        path = "/responses" if "input" in body else "/chat/completions"
        address, headers = upstream.url + path, upstream.headers({})
        fields = {name: value for name, value in body.items() if name not in _STREAMED}
        data = fields | {"model": upstream.model}
        async with self.client.post(address, json=data, headers=headers) as answer:
            return (
                answer.status,
                await answer.read(),
                _retry_seconds(answer.headers.get("retry-after")),
            )

    def _check_there(self, upstream: Upstream, error: Exception) -> None:
        """Raises BadInput where nobody has ever answered there: waiting does not fix an address."""
        nowhere = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
        if nowhere and upstream.url not in self._heard:
            options = {id(self.plan.small): "--small", id(self.plan.large): "--large"}
            option = options.get(id(upstream), "--middle")
            raise BadInput(
                f"the model {upstream.model} cannot be reached at {upstream.url}: "
                f"{_reason(error)}. Check {option} and whether it runs."
            ) from error


def _plain_body(prompt: str, url: str) -> Body:
    content = [
        {"type": "text", "text": prompt},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"messages": [{"role": "user", "content": content}]}


def _reason(error: Exception) -> str:
    """What went wrong with the connection, in the system's words where it has some."""
    inner = getattr(error, "os_error", error)
    text = getattr(inner, "strerror", None) or str(inner) or type(error).__name__
    return text.rstrip(".")


def _retry_seconds(retry_after: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3), a number or a date, as seconds from now; None without one."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _answer(answer: CollectedAnswer, quality: float) -> Answer:
    return Answer(quality=quality, cost=answer.cost, seconds=answer.seconds, text=answer.text)


def _image_beside_log(image: str, plan: CollectionPlan) -> str:
    """A picture as the log names it: paths start from the log's folder, not the requests'."""
    if image.startswith("data:") or len(image) >= 1024 or os.path.isabs(image):
        return image
    path = plan.folder / image
    if not path.is_file():
        return image
    # Folders are resolved, since '..' after a symbolic link leads elsewhere; the picture's own name
    # stays.
    resolved = os.path.join(os.path.realpath(path.parent), path.name)
    return os.path.relpath(resolved, os.path.realpath(plan.log_folder))
