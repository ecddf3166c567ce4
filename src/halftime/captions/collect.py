"""Make a log: send requests to both models, and let a judge say how good each answer is."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from halftime.captions import features
from halftime.captions.asgi import TAIL, Judge
from halftime.captions.compare import text_of
from halftime.captions.log import picture_of
from halftime.captions.upstream import Upstream
from halftime.errors import BadFile, HalftimeError
from halftime.extras import optional
from halftime.records.base import Record
from halftime.records.captions import Answer, Check, Logged
from halftime.store import read_bytes

if TYPE_CHECKING:
    import aiohttp

Progress = Callable[[str, int, int], None]


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


def read_requests(path: Path) -> list[Request]:
    """Requests as JSON lines. Raises BadFile, naming the line."""
    found = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=Request))
            except msgspec.DecodeError as error:
                raise BadFile(f"{path}, line {number}: {error}. A line needs 'image' and may have 'prompt'.") from error
    return found


def collect(
    requests: Sequence[Request], folder: Path, small: Upstream, large: Upstream, judge: Judge, progress: Progress
) -> Iterator[Logged]:
    """Ask both models one request after the other, in turns. Pictures that cannot be read are left out."""
    with asyncio.Runner() as runner:
        client = runner.run(_session())
        try:
            for number, request in enumerate(requests):
                progress("asking both models", number, len(requests))
                try:
                    picture = picture_of(request.image, folder)
                    features.thumbnail(picture)
                except features.NotSeen:
                    continue
                answers = [runner.run(_ask(client, upstream, request, picture)) for upstream in (small, large)]
                yield _logged(request, picture, answers[0], answers[1], judge)
        finally:
            runner.run(client.close())


async def _session() -> aiohttp.ClientSession:
    http = optional("aiohttp", "captions", "halftime captions collect")
    session: aiohttp.ClientSession = http.ClientSession(timeout=http.ClientTimeout(total=300))
    return session


async def _ask(client: aiohttp.ClientSession, upstream: Upstream, request: Request, picture: bytes) -> Asked:
    url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    content = [{"type": "text", "text": request.prompt}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": upstream.model, "messages": [{"role": "user", "content": content}]}
    begun = time.perf_counter()
    async with client.post(f"{upstream.url}/chat/completions", json=body, headers=upstream.headers({})) as answer:
        data = await answer.read()
        if answer.status != 200:
            raise HalftimeError(f"{upstream.model} answered {answer.status}: {data[:200].decode(errors='replace')}")
    return Asked(text_of(data), upstream.spend(data[-TAIL:]), time.perf_counter() - begun)


def _logged(request: Request, picture: bytes, small: Asked, large: Asked, judge: Judge) -> Logged:
    begun = time.perf_counter()
    score = judge(picture, request.prompt, small.text)
    took = time.perf_counter() - begun
    answers = [
        Answer(quality=quality, cost=asked.cost, seconds=asked.seconds, text=asked.text)
        for quality, asked in ((score, small), (judge(picture, request.prompt, large.text), large))
    ]
    return Logged(
        id=request.id,
        prompt=request.prompt,
        image=request.image,
        slice=request.slice,
        heavy=request.heavy,
        small=answers[0],
        large=answers[1],
        check=Check(score=score, seconds=took),
    )
