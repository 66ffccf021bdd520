"""gRPC statuses over HTTP."""

from __future__ import annotations

import logging
import math

import grpc
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from mysingle.core.context import current
from mysingle.grpc.errors import GrpcCallError, GrpcError

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
    """Answers `{"error": {"code", "message", "trace_id"}}` to whatever a route raises."""
    app.add_exception_handler(GrpcError, _on_grpc_error)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_grpc_error(_request: Request, error: Exception) -> JSONResponse:
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
        message = "Internal error"
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return _answer(status, code.name, message, headers, error.violations)


async def _on_unexpected(_request: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected error", exc_info=error)
    return _answer(500, "INTERNAL", "Internal error", {}, {})


def _answer(
    status: int, code: str, message: str, headers: dict[str, str], violations: dict[str, str]
) -> JSONResponse:
    error: dict[str, object] = {
        "code": code,
        "message": message,
        "trace_id": current().correlation_id,
    }
    if violations:
        error["violations"] = violations
    return JSONResponse({"error": error}, status, headers)
