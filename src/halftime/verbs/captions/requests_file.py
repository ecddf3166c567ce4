"""The requests to collect answers for, a line each: written by hand, or sent by a live client."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from halftime.base.errors import BadFile
from halftime.base.store import read_bytes
from halftime.records.base import Record
from halftime.verbs.captions import features
from halftime.verbs.captions.pictures import PictureClient
from halftime.verbs.captions.request import caption_request


class CollectedRequest(Record, frozen=True, kw_only=True):
    """One line of the requests to send: a picture (path, URL, data URL or base64) and its prompt.

    Or `body`: a whole request as a live client sent it, with one picture in it; all models
    get it with all that is in it, and only their own names are put in.
    """

    image: str = ""
    body: dict[str, object] | None = None
    prompt: str = "Describe this picture."
    id: str = ""
    slice: str = ""
    heavy: bool = False


def read_requests(path: Path, fetch_from: tuple[str, ...] = ()) -> list[CollectedRequest]:
    """Requests as JSON lines; pictures by URL only from hosts that are named.

    Raises BadFile, naming the line.
    """
    pictures = PictureClient(fetch_from)
    requests = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if line.strip():
            try:
                request = msgspec.json.decode(line, type=CollectedRequest)
            except msgspec.DecodeError as error:
                raise BadFile(
                    f"{path}, line {number}: {error}. A line needs 'image' or 'body', and may have "
                    "'prompt'."
                ) from error
            requests.append(_with_picture(request, path, number))
            _check_host(requests[-1], pictures, path, number)
    if not requests:
        raise BadFile(
            f'{path} has no request. Write one a line, such as {{"image": "a.jpg", "prompt": '
            f'"What is it?"}}.'
        )
    return requests


def _with_picture(request: CollectedRequest, path: Path, number: int) -> CollectedRequest:
    """A request whose picture and prompt are in their fields, wherever they stood."""
    if request.body is None:
        if not request.image:
            raise BadFile(f"{path}, line {number}: it has neither 'image' nor 'body'.")
        return request
    live = caption_request(request.body)
    if live.picture is None and live.url:
        return msgspec.structs.replace(request, image=live.url, prompt=live.prompt)
    if live.picture is None:
        raise BadFile(
            f"{path}, line {number}: its 'body' is no request that could be routed: {live.reason}. "
            "It needs one picture in its last user message."
        )
    image = data_url(live.picture)
    return msgspec.structs.replace(request, image=image, prompt=live.prompt)


def is_url(image: str) -> bool:
    """Whether the picture is somewhere else."""
    return image.startswith(("http://", "https://"))


def _check_host(
    request: CollectedRequest, pictures: PictureClient, path: Path, number: int
) -> None:
    """Raises BadFile for a picture that would be fetched from a host that nobody named."""
    if is_url(request.image) and not pictures.may_fetch(request.image):
        host = urlsplit(request.image).netloc.rpartition("@")[2]
        raise BadFile(
            f"{path}, line {number}: its picture is at {host}, which was not named: give "
            f"--fetch-from {host}, or the picture as a data URL."
        )


def data_url(picture: bytes) -> str:
    """The picture itself as a URL."""
    return f"data:{features.media_type(picture)};base64,{base64.b64encode(picture).decode()}"
