"""Write a log: send requests to both models, and let a judge say how good each answer is.

One failure costs one request: it is left out, with its reason, and every line that was paid for
stays.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from halftime.base.errors import BadFile, BadInput, HalftimeError
from halftime.base.progress import Progress
from halftime.base.store import read_bytes
from halftime.records.base import Record
from halftime.records.captions import Answer, Check, Logged
from halftime.verbs.captions import features
from halftime.verbs.captions.compare import text_of
from halftime.verbs.captions.judge import AnswerJudge
from halftime.verbs.captions.log import picture_of
from halftime.verbs.captions.upstream import FAILURES, Upstream

PAUSES = (1.0, 2.0, 4.0)  # seconds before a request that failed is sent again
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After says
# requests that a model or the judge may fail before the run stops: each costs money and minutes
MOST_IN_A_ROW = 10
_PASSING = {408, 425, 429}  # and 5xx: the same request may be answered later
_NOT_THE_REQUEST = {401, 403, 404}  # the key, the address or the model's name


class CollectedRequest(Record, frozen=True, kw_only=True):
    """One line of the requests to send: a picture (path, data URL or base64) and its prompt."""

    image: str
    prompt: str = "Describe this picture."
    id: str = ""
    slice: str = ""
    heavy: bool = False


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


def read_requests(path: Path) -> list[CollectedRequest]:
    """Requests as JSON lines. Raises BadFile, naming the line."""
    requests = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if line.strip():
            try:
                requests.append(msgspec.json.decode(line, type=CollectedRequest))
            except msgspec.DecodeError as error:
                raise BadFile(
                    f"{path}, line {number}: {error}. A line needs 'image' and may have 'prompt'."
                ) from error
    if not requests:
        raise BadFile(
            f'{path} has no request. Write one a line, such as {{"image": "a.jpg", "prompt": '
            f'"What is it?"}}.'
        )
    return requests


def missing_requests(
    requests: Sequence[CollectedRequest], logged: Sequence[Logged], plan: CollectionPlan
) -> list[CollectedRequest]:
    """Requests without a line in the log; one that is in the requests twice needs two lines."""
    lines = Counter((row.id, row.image, row.prompt) for row in logged)
    missing = []
    for request in requests:
        key = (request.id, _image_beside_log(request.image, plan), request.prompt)
        lines[key] -= 1
        if lines[key] < 0:
            missing.append(request)
    return missing


def collect(
    requests: Sequence[CollectedRequest], plan: CollectionPlan, progress: Progress
) -> Iterator[Logged | LeftOut]:
    """Ask both models one request after the other; yield each one's line, or why it has none.

    Raises BadInput where a model cannot be reached or the judge's first answer is not a number,
    HalftimeError after MOST_IN_A_ROW failures in a row.
    """
    with asyncio.Runner() as runner:
        collection = _Collection(runner, runner.run(_session()), plan)
        in_a_row = 0
        try:
            for number, request in enumerate(requests):
                progress("asking both models", number, len(requests))
                try:
                    result: Logged | LeftOut = collection.logged(request)
                    in_a_row = 0
                except FailedRequest as error:
                    name = request.id or request.image[:60]
                    result = LeftOut(error.kind, f"{name}: {error}")
                    in_a_row += error.general
                yield result
                if in_a_row == MOST_IN_A_ROW:
                    raise HalftimeError(f"stopped after {in_a_row} failures in a row")
        finally:
            runner.run(collection.client.close())


async def _session() -> aiohttp.ClientSession:  # needs a running loop
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))


class _Collection:
    """State of one collection: its client, which models have answered, whether the judge has."""

    def __init__(
        self, runner: asyncio.Runner, client: aiohttp.ClientSession, plan: CollectionPlan
    ) -> None:
        self.client, self.plan = client, plan
        self._runner = runner
        self._heard: set[str] = set()  # URLs that answered, whatever they said
        self._judged = False

    def logged(self, request: CollectedRequest) -> Logged:
        """A line of the log. Raises FailedRequest."""
        plan = self.plan
        try:
            picture = picture_of(request.image, plan.folder)
            features.thumbnail(picture)
        except features.NotSeen as error:
            raise FailedRequest("the picture cannot be used", str(error)) from error
        # Judged before the large model is paid: a judge that cannot be used shows at the first
        # answer.
        small = self._runner.run(self._ask(plan.small, request, picture))
        begun = time.perf_counter()
        score = self._score(picture, request.prompt, small.text)
        seconds = time.perf_counter() - begun
        large = self._runner.run(self._ask(plan.large, request, picture))
        return Logged(
            id=request.id,
            prompt=request.prompt,
            image=_image_beside_log(request.image, plan),
            slice=request.slice,
            heavy=request.heavy,
            small=_answer(small, score),
            large=_answer(large, self._score(picture, request.prompt, large.text)),
            check=Check(score=score, seconds=seconds),
        )

    def _score(self, picture: bytes, prompt: str, text: str) -> float:
        name = self.plan.judge_name
        try:
            score: object = self.plan.judge(picture, prompt, text)
        except Exception as error:  # it is the user's own code
            raise FailedRequest(
                f"--judge {name} raised {type(error).__name__}", str(error), general=True
            ) from error
        if isinstance(score, Real) and math.isfinite(score):
            self._judged = True
            return float(score)
        words = (
            f"--judge {name!r} returned {score!r:.60}, and a judge returns a finite number, such "
            "as 0.93: how good the answer is."
        )
        if not self._judged:
            raise BadInput(f"{words} Correct it and run again.")
        raise FailedRequest(f"--judge {name} returned no number", words, general=True)

    async def _ask(
        self, upstream: Upstream, request: CollectedRequest, picture: bytes
    ) -> CollectedAnswer:
        """One model's answer; what may pass is tried again.

        Raises FailedRequest, or BadInput where the model cannot be reached at all.
        """
        for pause in PAUSES:
            try:
                return await self._once(upstream, request, picture)
            except FailedRequest as error:
                if not error.passing:
                    raise
                await asyncio.sleep(pause if error.wait is None else min(error.wait, LONGEST_PAUSE))
        return await self._once(upstream, request, picture)

    async def _once(
        self, upstream: Upstream, request: CollectedRequest, picture: bytes
    ) -> CollectedAnswer:
        begun = time.perf_counter()
        try:
            status, data, wait = await self._sent(upstream, request, picture)
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

    async def _sent(
        self, upstream: Upstream, request: CollectedRequest, picture: bytes
    ) -> tuple[int, bytes, float | None]:
        """Status, body, and the seconds that Retry-After asks for."""
        url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        content = [
            {"type": "text", "text": request.prompt},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        body = {"model": upstream.model, "messages": [{"role": "user", "content": content}]}
        address, headers = f"{upstream.url}/chat/completions", upstream.headers({})
        async with self.client.post(address, json=body, headers=headers) as answer:
            return (
                answer.status,
                await answer.read(),
                _retry_seconds(answer.headers.get("retry-after")),
            )

    def _check_there(self, upstream: Upstream, error: Exception) -> None:
        """Raises BadInput where nobody has ever answered there: waiting does not fix an address."""
        nowhere = isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL)
        if nowhere and upstream.url not in self._heard:
            option = "--small" if upstream is self.plan.small else "--large"
            raise BadInput(
                f"the model {upstream.model} cannot be reached at {upstream.url}: "
                f"{_reason(error)}. Check {option} and whether it runs."
            ) from error


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
