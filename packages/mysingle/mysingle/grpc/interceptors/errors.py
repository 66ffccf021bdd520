"""Step 6: exceptions of the servicer become statuses."""

from __future__ import annotations

import grpc

from mysingle.grpc._context import CallContext
from mysingle.grpc._errors import GrpcCallError, GrpcError, code_of_exception
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["ErrorHandlingInterceptor"]

_PASSED_ON_TEXT = {
    grpc.StatusCode.UNAVAILABLE: "A service behind this one is unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "A service behind this one did not answer in time",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "A service behind this one is overloaded",
}


class ErrorHandlingInterceptor(Interceptor):
    """Maps an exception to the status of [code_of_exception][].

    The text of an exception with a meaning of its own (`ValueError("bad seat")`) goes to the
    caller. Of an unexpected one the caller learns the correlation id only; the log has both.
    """

    def after(self, call: CallContext, outcome: Outcome) -> Outcome | None:
        """Replaces the outcome of a call that ended by an exception."""
        error = outcome.error
        if error is None or outcome.code is not grpc.StatusCode.UNKNOWN:
            return None
        if isinstance(error, GrpcError) and not isinstance(error, GrpcCallError):
            return None
        code = code_of_exception(error)
        return Outcome(code, self._message(call, code, error), error=error)

    @staticmethod
    def _message(call: CallContext, code: grpc.StatusCode, error: BaseException) -> str:
        if code is grpc.StatusCode.INTERNAL:
            correlation_id = call.correlation_id
            return (
                f"Internal error; correlation-id: {correlation_id}"
                if correlation_id
                else ("Internal error")
            )
        if isinstance(error, grpc.RpcError):
            return _PASSED_ON_TEXT[code]
        # str(KeyError("x")) is "'x'" with quotes; an OSError's text holds its path, its
        # strerror does not.
        if isinstance(error, KeyError) and error.args:
            return str(error.args[0])
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return str(error)
