"""A proxy as it is often first written: a new httpx client for each request; the table's ceiling.

UPSTREAM=http://127.0.0.1:9000 uvicorn naive_proxy:app --port 4020
"""

import os

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

UPSTREAM = os.environ["UPSTREAM"]


async def forward(request: Request) -> Response:
    body = await request.body()
    headers = {"content-type": "application/json"}
    if b'"stream": true' in body[-200:]:
        return StreamingResponse(
            _chunks(request.url.path, body, headers), media_type="text/event-stream"
        )
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(UPSTREAM + request.url.path, content=body, headers=headers)
    return Response(answer.content, answer.status_code, media_type="application/json")


async def _chunks(path: str, body: bytes, headers: dict[str, str]):
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", UPSTREAM + path, content=body, headers=headers) as answer,
    ):
        async for chunk in answer.aiter_raw():
            yield chunk


app = Starlette(routes=[Route("/{path:path}", forward, methods=["POST"])])
