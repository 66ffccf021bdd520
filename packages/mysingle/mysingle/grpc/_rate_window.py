"""Sliding windows: how many requests a key made in the last so many seconds.

Both windows keep the time of each request (a sliding log), so the limit holds over every window
of that length, not only over those that begin at a full minute.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["LocalWindow", "RedisWindow", "Verdict"]


class Verdict(NamedTuple):
    """Whether one request passes.

    Attributes:
        allowed: It does.
        remaining: Requests that would pass right now besides it.
        reset_seconds: Until the oldest request leaves the window, and one more passes.
    """

    allowed: bool
    remaining: int
    reset_seconds: float


class LocalWindow:
    """The window of this process.

    Args:
        limit: Requests that pass in each window.
        seconds: The window's length.
        max_keys: Keys remembered at most; beyond, the one unused longest is forgotten.
        clock: Gives seconds; for tests.
    """

    def __init__(
        self,
        limit: int,
        seconds: float,
        *,
        max_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._max_keys = max_keys
        self._clock = clock
        self._requests: OrderedDict[str, deque[float]] = OrderedDict()

    def hit(self, key: str) -> Verdict:
        """Counts a request of `key` if it passes."""
        now = self._clock()
        requests = self._requests.get(key)
        if requests is None:
            requests = self._requests[key] = deque()
            if len(self._requests) > self._max_keys:
                self._requests.popitem(last=False)
        else:
            self._requests.move_to_end(key)
        oldest_that_counts = now - self._seconds
        while requests and requests[0] <= oldest_that_counts:
            requests.popleft()
        allowed = len(requests) < self._limit
        if allowed:
            requests.append(now)
        return Verdict(allowed, self._limit - len(requests), requests[0] + self._seconds - now)


# One script, so that looking and counting cannot be pulled apart, on the clock of Redis, so that
# processes with different clocks agree. The score is that clock in microseconds, exact in a
# double; members differ by the number of requests in the same microsecond.
_HIT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = tonumber(ARGV[1])
local limit = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local count = redis.call('ZCARD', KEYS[1])
local allowed = 0
if count < limit then
  allowed = 1
  redis.call('ZADD', KEYS[1], now, string.format('%.0f:%d', now, count))
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
  count = count + 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {allowed, limit - count, string.format('%.0f', oldest + window - now)}
"""


class RedisWindow:
    """The window of all processes that use the same Redis.

    Args:
        redis: Where requests are counted.
        limit: Requests that pass in each window.
        seconds: The window's length.
        prefix: Put before each key.
    """

    def __init__(self, redis: Redis, limit: int, seconds: float, *, prefix: str) -> None:
        self._hit = redis.register_script(_HIT)
        self._arguments = [round(seconds * 1_000_000), limit]
        self._prefix = prefix

    async def hit(self, key: str) -> Verdict:
        """Counts a request of `key` if it passes.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        allowed, remaining, reset = await self._hit(
            keys=[f"{self._prefix}{{{key}}}"], args=self._arguments
        )
        return Verdict(bool(allowed), int(remaining), int(reset) / 1_000_000)
