"""Errors as OpenAI's API words them: `{"error": {message, type, param, code}}`, with a status and
Retry-After."""

from __future__ import annotations

import math

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from halftime.base.errors import HalftimeError

JSON = "application/json"
CODE = "halftime.code"
_LONGEST = 60.0  # seconds that OpenAI's client waits before it tries again


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong. `code` is for programs; `param` names the parameter at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiError(HalftimeError):
    """An answer with a status of 400 or above.

    `retry_after` is in seconds. `retry` False tells OpenAI's client not to try again although the
    status would make it: under overload, a request that missed its deadline must not come back
    twice. `close` ends the connection with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "",
        retry_after: float | None = None,
        retry: bool | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(
            message=message, type=kind or _kind(status), param=param, code=code
        )
        self.retry_after, self.retry, self.close = retry_after, retry, close

    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds, as RFC 9110 wants it, and the hints that OpenAI's client
        obeys. It ignores a wait of more than a minute and comes back at once; milliseconds, which
        it reads first, tell it to wait for that minute."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
            if self.retry_after > _LONGEST:
                headers["retry-after-ms"] = str(math.ceil(1000 * _LONGEST))
        if self.retry is not None:
            headers["x-should-retry"] = "true" if self.retry else "false"
        if self.close:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(self.detail))

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers(), JSON)


def _kind(status: int) -> str:
    """OpenAI's `type` for a status."""
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


async def api_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for ApiError; leaves the code in the scope, for the metrics."""
    assert isinstance(error, ApiError)
    request.scope[CODE] = error.detail.code
    return error.response()


async def http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such route, wrong method, a multipart body it cannot read) in
    the same shape."""
    assert isinstance(error, HTTPException)
    code = request.scope[CODE] = _CODES.get(error.status_code)
    response = ApiError(error.status_code, error.detail, code=code).response()
    response.headers.update(error.headers or {})
    return response


_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}


def unexpected(error: Exception) -> Response:
    """Our own fault: the kind of error and nothing else, since its text may hold what the client
    sent."""
    return ApiError(
        500, f"Internal error ({type(error).__name__}); the log says more.", code="internal"
    ).response()


ERROR_HANDLERS = {ApiError: api_error, HTTPException: http_exception}  # for Starlette
