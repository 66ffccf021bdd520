"""Step 4: the correlation id is kept or made, returned, and passed on by clients."""

from __future__ import annotations

import re
from random import getrandbits

from mysingle.grpc._context import CallContext
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["MetadataInterceptor"]

_CORRELATION = "correlation-id"
_REQUEST = "request-id"
_VALID = re.compile(r"[!-~]{1,128}", re.ASCII).fullmatch


def _new_id() -> str:
    # An id is no secret; Python seeds this generator anew in each process, forked ones too.
    return f"{getrandbits(128):032x}"


class MetadataInterceptor(Interceptor):
    """Gives each call a correlation id and a request id.

    `correlation-id` (or `x-correlation-id`) and `request-id` (or `x-request-id`) of the caller
    are kept if they are 1 to 128 visible ASCII characters; others are replaced, since they end
    up in logs and in calls to other services. A caller who sends none gets a new correlation
    id. Both return in the trailing metadata, and on streams in the initial metadata too.
    """

    def before(self, call: CallContext) -> None:
        """Sets the ids in the request context, where loggers and clients find them."""
        metadata = call.metadata
        given = metadata.get(_CORRELATION) or metadata.get("x-correlation-id")
        correlation_id = given if isinstance(given, str) and _VALID(given) else _new_id()
        given = metadata.get(_REQUEST) or metadata.get("x-request-id")
        request_id = given if isinstance(given, str) and _VALID(given) else correlation_id
        context = call.request_context
        context.correlation_id = correlation_id
        context.request_id = request_id
        ids = ((_CORRELATION, correlation_id), (_REQUEST, request_id))
        call.add_trailing(*ids)
        if call.method.response_streaming:
            call.add_initial(*ids)

    def refused(self, call: CallContext, outcome: Outcome) -> None:
        """A refused caller gets an id to complain with, too."""
        del outcome
        self.before(call)
