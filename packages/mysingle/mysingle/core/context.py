"""What is known about the call being served, for loggers and for calls going out.

One context variable holds one [RequestContext][]; a server sets it when a call comes in, and
everything that runs inside the call (tasks, threads of the servicer pool) sees it.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["RequestContext", "current", "current_or_none"]


@dataclass(slots=True)
class RequestContext:
    """Identity, correlation and deadline of one call.

    Attributes:
        user_id: Who calls; empty where nobody was authenticated.
        correlation_id: Ties together every call and log line caused by one outside request.
        request_id: This one call; the correlation id where the caller named none.
        deadline: `time.monotonic()` value at which the caller stops waiting; None for never.
        method: Full name of the method being served, such as `/math.MathService/Add`.
    """

    user_id: str = ""
    correlation_id: str = ""
    request_id: str = ""
    deadline: float | None = None
    method: str = ""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, never negative; None where there is no deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - time.monotonic())


_current: ContextVar[RequestContext | None] = ContextVar("mysingle_request", default=None)


def current() -> RequestContext:
    """The context of the call being served; an empty one outside any call."""
    return _current.get() or RequestContext()


def current_or_none() -> RequestContext | None:
    """The context of the call being served, or None outside any call."""
    return _current.get()
