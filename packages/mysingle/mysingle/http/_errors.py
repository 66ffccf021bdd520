"""gRPC statuses over HTTP."""

from __future__ import annotations

import logging
import math

import grpc
import grpc.aio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from mysingle.core.context import RequestContext, _current
from mysingle.grpc.errors import GrpcCallError, GrpcError
from mysingle.http._correlation import correlation_id_of

__all__ = ["add_error_handlers", "http_status"]

_log = logging.getLogger("mysingle.http")
_Code = grpc.StatusCode

# As google/rpc/code.proto has it.
_HTTP = {
    _Code.OK: 200,
    _Code.CANCELLED: 499,
    _Code.INVALID_ARGUMENT: 400,
    _Code.DEADLINE_EXCEEDED: 504,
    _Code.NOT_FOUND: 404,
    _Code.ALREADY_EXISTS: 409,
    _Code.PERMISSION_DENIED: 403,
    _Code.UNAUTHENTICATED: 401,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.FAILED_PRECONDITION: 400,
    _Code.ABORTED: 409,
    _Code.OUT_OF_RANGE: 400,
    _Code.UNIMPLEMENTED: 501,
    _Code.UNAVAILABLE: 503,
}


def http_status(code: grpc.StatusCode) -> int:
    """The HTTP status that says the same; 500 for our own faults."""
    return _HTTP.get(code, 500)


def add_error_handlers(app: FastAPI) -> None:
    """Answers `{"error": {"code", "message", "trace_id"}}` to whatever a route raises.

    `violations` and `reason` are there as well where the error has them.
    """
    app.add_exception_handler(GrpcError, _on_grpc_error)
    app.add_exception_handler(grpc.aio.AioRpcError, _on_call_error)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_call_error(request: Request, error: Exception) -> JSONResponse:
    """The error of a plain grpc.aio stub, which is no [GrpcError][] yet."""
    assert isinstance(error, grpc.aio.AioRpcError)  # noqa: S101  # what it is registered for
    return await _on_grpc_error(request, GrpcCallError(error))


async def _on_grpc_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GrpcError)  # noqa: S101  # what it is registered for
    code = error.code()
    status = http_status(code)
    message = error.message
    if isinstance(error, GrpcCallError) and code is _Code.UNAVAILABLE:
        # A dead backend is this gateway's trouble, not its own; and whatever the transport says
        # of it names inner addresses.
        status, message = 502, "A service behind this one is unavailable"
    elif status == 500:
        _log.error("%s", error, exc_info=error)
        return _answer(request, 500, code.name, "Internal error")
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif status == 429:
        headers["Retry-After"] = "1"  # whoever refused did not say; at once is what it is not
    answer = _answer(request, status, code.name, message, error)
    answer.headers.update(headers)
    return answer


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    # It runs outside of every middleware: the id is in the request only, and nobody adds the
    # header to this answer.
    correlation_id = correlation_id_of(request.scope)
    token = _current.set(RequestContext(correlation_id=correlation_id, request_id=correlation_id))
    try:
        _log.error("unexpected error", exc_info=error)
    finally:
        _current.reset(token)
    answer = _answer(request, 500, "INTERNAL", "Internal error")
    if correlation_id:
        answer.headers["X-Correlation-ID"] = correlation_id
    return answer


def _answer(
    request: Request, status: int, code: str, message: str, error: GrpcError | None = None
) -> JSONResponse:
    content: dict[str, object] = {
        "code": code,
        "message": message,
        "trace_id": correlation_id_of(request.scope),
    }
    if error is not None and error.violations:
        content["violations"] = error.violations
    if error is not None and error.reason:
        content["reason"] = error.reason
    return JSONResponse({"error": content}, status)
