"""A circuit breaker: a target that fails again and again is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

__all__ = ["CircuitBreaker"]

# What says that the target is unwell. Any other status is an answer of a healthy server.
_UNWELL = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class CircuitBreaker:
    """Closed while calls succeed; open after too many failures in a row; then one call tries.

    Args:
        failures: So many in a row open it; 0 never does.
        reset_seconds: How long it stays open before one call may try.
        clock: Gives seconds; for tests.
    """

    def __init__(
        self,
        failures: int,
        reset_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._reset = reset_seconds
        self._clock = clock
        self._in_a_row = 0
        self._try_at = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for the one that tries."""
        return 0 < self._failures <= self._in_a_row

    def seconds_to_wait(self) -> float | None:
        """None lets a call pass; otherwise the seconds until one may try.

        A call that passes must end with [record][CircuitBreaker.record].
        """
        if not self.is_open:
            return None
        wait = self._try_at - self._clock()
        if wait > 0:
            return wait
        if self._trying:
            return self._reset
        self._trying = True
        return None

    def record(self, code: grpc.StatusCode) -> None:
        """How a call that had passed ended."""
        if code in _UNWELL:
            self._in_a_row += 1
            if self.is_open:
                self._try_at = self._clock() + self._reset
        elif code is not grpc.StatusCode.CANCELLED:  # which says nothing of the target
            self._in_a_row = 0
        self._trying = False
