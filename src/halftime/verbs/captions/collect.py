"""Make a log: send requests to both models, and let a judge say how good each answer is.

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
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from halftime.base.errors import BadFile, BadInput, HalftimeError
from halftime.base.extras import optional
from halftime.base.progress import Progress
from halftime.base.store import read_bytes
from halftime.records.base import Record
from halftime.records.captions import Answer, Check, Logged
from halftime.verbs.captions import features
from halftime.verbs.captions.asgi import TAIL, Judge
from halftime.verbs.captions.compare import text_of
from halftime.verbs.captions.log import picture_of
from halftime.verbs.captions.upstream import Upstream

if TYPE_CHECKING:
    import aiohttp

PAUSES = (1.0, 2.0, 4.0)  # seconds before a request that failed is sent again
LONGEST_PAUSE = 60.0  # seconds, whatever Retry-After says
# requests that a model or the judge may fail before the run stops: each costs money and minutes
MOST_IN_A_ROW = 10
_PASSING = {408, 425, 429}  # and 5xx: the same request may be answered later
_NOT_THE_REQUEST = {401, 403, 404}  # the key, the address or the model's name


class Request(Record, frozen=True, kw_only=True):
    """One line of the requests to send: a picture (path, data URL or base64) and its prompt."""

    image: str
    prompt: str = "Describe this picture."
    id: str = ""
    slice: str = ""
    heavy: bool = False


class Asked(NamedTuple):
    """An answer with its price and its time."""

    text: str
    cost: float
    seconds: float


class LeftOut(NamedTuple):
    """A request without a line in the log: `kind` is what its like have in common, `why` its own
    reason."""

    kind: str
    why: str


@dataclass(frozen=True)
class Work:
    """Whom to ask and who judges. Pictures named by path stand in `folder`; the log will stand in
    `log_folder`."""

    small: Upstream
    large: Upstream
    judge: Judge
    judge_name: str
    folder: Path
    log_folder: Path


class _Failed(Exception):
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


def read_requests(path: Path) -> list[Request]:
    """Requests as JSON lines. Raises BadFile, naming the line."""
    found = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=Request))
            except msgspec.DecodeError as error:
                raise BadFile(
                    f"{path}, line {number}: {error}. A line needs 'image' and may have 'prompt'."
                ) from error
    if not found:
        raise BadFile(
            f'{path} has no request. Write one a line, such as {{"image": "a.jpg", "prompt": '
            f'"What is it?"}}.'
        )
    return found


def still_to_ask(
    requests: Sequence[Request], logged: Sequence[Logged], work: Work
) -> list[Request]:
    """Requests without a line in the log; one that stands twice in the requests needs two lines."""
    there = Counter((row.id, row.image, row.prompt) for row in logged)
    left = []
    for request in requests:
        key = (request.id, _image_beside(request.image, work), request.prompt)
        there[key] -= 1
        if there[key] < 0:
            left.append(request)
    return left


def collect(
    requests: Sequence[Request], work: Work, progress: Progress
) -> Iterator[Logged | LeftOut]:
    """Ask both models one request after the other, in turns; give a line or the reason for none as
    each is done.

    Raises BadInput where a model cannot be reached or the judge's first answer is no number,
    HalftimeError after MOST_IN_A_ROW failures in a row.
    """
    with asyncio.Runner() as runner:
        run = _Run(runner, runner.run(_session()), work)
        in_a_row = 0
        try:
            for number, request in enumerate(requests):
                progress("asking both models", number, len(requests))
                try:
                    done: Logged | LeftOut = run.logged(request)
                    in_a_row = 0
                except _Failed as error:
                    done = LeftOut(error.kind, f"{_name(request)}: {error}")
                    in_a_row += error.general
                yield done
                if in_a_row == MOST_IN_A_ROW:
                    raise HalftimeError(f"stopped after {in_a_row} failures in a row")
        finally:
            runner.run(run.client.close())


def _name(request: Request) -> str:
    return request.id or request.image[:60]


async def _session() -> aiohttp.ClientSession:
    http = optional("aiohttp", "captions", "halftime captions collect")
    session: aiohttp.ClientSession = http.ClientSession(timeout=http.ClientTimeout(total=300))
    return session


class _Run:
    """State of one run: its client, which models have answered, whether the judge has."""

    def __init__(self, runner: asyncio.Runner, client: aiohttp.ClientSession, work: Work) -> None:
        self.client, self.work = client, work
        self._runner = runner
        self._http = optional("aiohttp", "captions", "halftime captions collect")
        self._heard: set[str] = set()  # URLs that answered, whatever they said
        self._judged = False

    def logged(self, request: Request) -> Logged:
        """A line of the log. Raises _Failed."""
        work = self.work
        try:
            picture = picture_of(request.image, work.folder)
            features.thumbnail(picture)
        except features.NotSeen as error:
            raise _Failed("the picture cannot be used", str(error)) from error
        # Judged before the large model is paid: a judge that cannot be used shows at the first
        # answer.
        small = self._runner.run(self._ask(work.small, request, picture))
        begun = time.perf_counter()
        score = self._score(picture, request.prompt, small.text)
        took = time.perf_counter() - begun
        large = self._runner.run(self._ask(work.large, request, picture))
        return Logged(
            id=request.id,
            prompt=request.prompt,
            image=_image_beside(request.image, work),
            slice=request.slice,
            heavy=request.heavy,
            small=_answer(small, score),
            large=_answer(large, self._score(picture, request.prompt, large.text)),
            check=Check(score=score, seconds=took),
        )

    def _score(self, picture: bytes, prompt: str, text: str) -> float:
        name = self.work.judge_name
        try:
            score: object = self.work.judge(picture, prompt, text)
        except Exception as error:  # it is the user's own code
            raise _Failed(
                f"--judge {name} raised {type(error).__name__}", str(error), general=True
            ) from error
        if isinstance(score, Real) and math.isfinite(score):
            self._judged = True
            return float(score)
        words = (
            f"--judge {name!r} returned {score!r:.60}, and a judge returns a finite number, "
            "such as 0.93: how good the "
            "answer is."
        )
        if not self._judged:
            raise BadInput(f"{words} Mend it and run again.")
        raise _Failed(f"--judge {name} returned no number", words, general=True)

    async def _ask(self, upstream: Upstream, request: Request, picture: bytes) -> Asked:
        """One model's answer; what may pass is tried again. Raises _Failed, or BadInput where
        nobody is there."""
        for pause in PAUSES:
            try:
                return await self._once(upstream, request, picture)
            except _Failed as error:
                if not error.passing:
                    raise
                await asyncio.sleep(pause if error.wait is None else min(error.wait, LONGEST_PAUSE))
        return await self._once(upstream, request, picture)

    async def _once(self, upstream: Upstream, request: Request, picture: bytes) -> Asked:
        begun = time.perf_counter()
        try:
            status, data, wait = await self._sent(upstream, request, picture)
        except (self._http.ClientError, TimeoutError, OSError) as error:
            self._check_there(upstream, error)
            raise _Failed(
                f"{upstream.model} gave no answer", _words(error), general=True, passing=True
            ) from error
        self._heard.add(upstream.url)
        if status == 200:
            return Asked(text_of(data), upstream.spend(data[-TAIL:]), time.perf_counter() - begun)
        passing = status >= 500 or status in _PASSING
        why = data[:200].decode(errors="replace").strip() or "it said nothing"
        general = passing or status in _NOT_THE_REQUEST
        raise _Failed(
            f"{upstream.model} answered {status}", why, general=general, passing=passing, wait=wait
        )

    async def _sent(
        self, upstream: Upstream, request: Request, picture: bytes
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
            return answer.status, await answer.read(), _seconds(answer.headers.get("retry-after"))

    def _check_there(self, upstream: Upstream, error: Exception) -> None:
        """Raises BadInput where nobody has ever answered there: waiting does not mend an
        address."""
        nowhere = isinstance(error, self._http.ClientConnectorError | self._http.InvalidURL)
        if nowhere and upstream.url not in self._heard:
            which = "--small" if upstream is self.work.small else "--large"
            raise BadInput(
                f"the model {upstream.model} cannot be reached at {upstream.url}: "
                f"{_words(error)}. Check {which} and "
                "whether it runs."
            ) from error


def _words(error: Exception) -> str:
    """What went wrong on the line, without aiohttp's own words where the system has some."""
    inner = getattr(error, "os_error", error)
    said = getattr(inner, "strerror", None) or str(inner) or type(error).__name__
    return said.rstrip(".")


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3), seconds or a date, as seconds from now; None where it says
    nothing."""
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


def _answer(asked: Asked, quality: float) -> Answer:
    return Answer(quality=quality, cost=asked.cost, seconds=asked.seconds, text=asked.text)


def _image_beside(image: str, work: Work) -> str:
    """A picture as the log names it: paths are beside the log, which may stand elsewhere than the
    requests."""
    if (
        image.startswith("data:")
        or len(image) >= 1024
        or os.path.isabs(image)
        or not (work.folder / image).is_file()
    ):
        return image
    # Folders are resolved, since '..' after a symbolic link leads elsewhere; the picture's own name
    # stays.
    folder = os.path.realpath((work.folder / image).parent)
    return os.path.relpath(
        os.path.join(folder, Path(image).name), os.path.realpath(work.log_folder)
    )
