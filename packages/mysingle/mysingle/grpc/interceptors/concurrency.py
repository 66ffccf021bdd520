"""A step beside the six: not more than so many calls at once."""

from __future__ import annotations

import grpc

from mysingle.grpc._context import CallContext
from mysingle.grpc._errors import GrpcError
from mysingle.grpc._method import Method
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["ConcurrencyInterceptor"]


class ConcurrencyInterceptor(Interceptor):
    """Refuses with `RESOURCE_EXHAUSTED` what goes beyond `GRPC_MAX_CONCURRENT_CALLS`.

    In the chain and not in the engine, so that refused calls are counted and logged as any
    other, and health checks, which say whether a busy server is alive, are never refused.

    Args:
        limit: Calls that this process serves at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0

    def for_method(self, method: Method) -> Interceptor | None:
        """Leaves out health."""
        return None if method.service == "grpc.health.v1.Health" else self

    def before(self, call: CallContext) -> None:
        """Takes a place.

        Raises:
            GrpcError: `RESOURCE_EXHAUSTED`; there is none.
        """
        del call
        if self._running >= self._limit:
            raise GrpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"This server is busy with {self._limit} calls",
                retry_after=1.0,
            )
        self._running += 1

    def after(self, call: CallContext, outcome: Outcome) -> None:
        """Gives the place back."""
        del call, outcome
        self._running -= 1
