"""The shape that all interceptors of the chain have."""

from __future__ import annotations

from collections.abc import Awaitable

from mysingle.grpc._context import CallContext
from mysingle.grpc._method import Method
from mysingle.grpc._outcome import Outcome

__all__ = ["Interceptor"]


class Interceptor:
    """One step of the chain; subclass it and pass it to your server.

    The same three methods serve all four call shapes. `before` runs on the way in, in chain
    order; `after` on the way out, in reverse order, for each step whose `before` passed.

    One instance serves all calls at once: keep what belongs to a call on the call.
    """

    def for_method(self, method: Method) -> Interceptor | None:
        """The step as calls of one method see it, asked once, before the server listens.

        Returns:
            This step itself, another one that knows the method, or None to leave it out.
        """
        del method
        return self

    def before(self, call: CallContext) -> Awaitable[None] | None:
        """Runs before the call; write it `def` or `async def`.

        Raises:
            GrpcError: To refuse the call; no later step and no servicer runs.
        """

    def after(self, call: CallContext, outcome: Outcome) -> Outcome | None:
        """Runs when the call is over, whatever ended it; it must not block.

        Returns:
            Another outcome in place of `outcome`, or None to leave it.
        """

    def refused(self, call: CallContext, outcome: Outcome) -> None:
        """Runs instead of `before` and `after` when an earlier step refused the call."""

    async def close(self) -> None:
        """Runs once when the server has stopped: close what the step opened."""
