"""A circuit breaker: a target that fails again and again is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

__all__ = ["CircuitBreaker"]

# What says that the target is unwell: it cannot be reached, or does not answer in time. INTERNAL
# and UNKNOWN do not count: they are bugs of one method, for which the others must not suffer.
_UNWELL = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class CircuitBreaker:
    """Closed while calls succeed; open after too many failures in a row; then one call tries.

    `UNAVAILABLE` and `DEADLINE_EXCEEDED` are failures; any other status comes from a target that
    is there, and ends the row; `CANCELLED` says nothing.

    It serves one event loop and is not safe across threads.

    Args:
        failures: So many in a row open it; 0 never does.
        reset_seconds: How long it stays open before one call may try. A call that tries and has
            not ended after as long again no longer keeps the next from trying.
        clock: Gives seconds; tests give their own.
    """

    def __init__(
        self,
        failures: int,
        reset_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures or float("inf")
        self._reset = reset_seconds
        self.clock = clock
        self._in_a_row = 0
        self._open_until: float | None = None
        # Tickets tell times apart: those before `_since` are from before the breaker opened or
        # closed last, and what they report is old news. While it is open each try has its own.
        self._ticket = 0
        self._since = 0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for the one that tries."""
        return self._open_until is not None

    @property
    def ticket(self) -> int:
        """Of the call that was let pass last."""
        return self._ticket

    def seconds_to_wait(self) -> float:
        """0 lets a call pass; otherwise the seconds until one may try.

        A call that passes takes [ticket][CircuitBreaker.ticket] along and hands it back to
        [record][CircuitBreaker.record].
        """
        if self._open_until is None:
            return 0.0
        now = self.clock()
        if now < self._open_until:
            return self._open_until - now
        self._ticket += 1
        self._open_until = now + self._reset
        return 0.0

    def record(self, code: grpc.StatusCode, ticket: int) -> None:
        """How a call that had passed ended; a stream also says OK when a message arrives."""
        if ticket < self._since:
            return
        if code in _UNWELL:
            self._in_a_row += 1
            if self._in_a_row >= self._limit and ticket == self._ticket:
                self._turn(open_until=self.clock() + self._reset)
        elif code is not grpc.StatusCode.CANCELLED:
            self._in_a_row = 0
            if self._open_until is not None:
                self._turn(open_until=None)
        elif self._open_until is not None and ticket == self._ticket:
            # It did not get to know; let the next one try at once.
            self._open_until = self.clock()

    def _turn(self, *, open_until: float | None) -> None:
        self._open_until = open_until
        self._ticket += 1
        self._since = self._ticket
