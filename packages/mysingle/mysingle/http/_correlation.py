"""The correlation id over HTTP."""

from __future__ import annotations

import re
import uuid
from typing import Any

from mysingle.core.context import RequestContext, _current

__all__ = ["CorrelationMiddleware", "correlation_id_of"]

_VALID = re.compile(rb"[!-~]{1,128}").fullmatch
_SCOPE_KEY = "mysingle.correlation_id"
_STARTS = frozenset({"http.response.start", "websocket.accept"})


def correlation_id_of(scope: Any) -> str:
    """The id of a request; empty where the middleware did not see it.

    For the handler of unexpected errors, which runs outside of every middleware, where the
    context variable is gone.
    """
    found: str = scope.get(_SCOPE_KEY, "")
    return found


class CorrelationMiddleware:
    """Keeps `X-Correlation-ID` (or `X-Request-ID`) of the caller, or makes one, and returns it.

    gRPC calls made by a route carry it on. It is plain ASGI: a middleware of Starlette's would
    run the route in another context, where the variable is not seen.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request = headers.get(b"x-request-id", b"")
        given = headers.get(b"x-correlation-id") or request
        correlation_id = given.decode() if _VALID(given) else uuid.uuid4().hex
        request_id = request.decode() if _VALID(request) else correlation_id
        scope[_SCOPE_KEY] = correlation_id

        async def send_with_id(message: Any) -> None:
            if message["type"] in _STARTS:
                message = {
                    **message,
                    "headers": [
                        *message.get("headers", ()),
                        (b"x-correlation-id", correlation_id.encode()),
                    ],
                }
            await send(message)

        token = _current.set(RequestContext(correlation_id=correlation_id, request_id=request_id))
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _current.reset(token)
