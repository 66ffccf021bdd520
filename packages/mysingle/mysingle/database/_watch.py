"""Whether Redis answers, for those who can do without it for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

__all__ = ["REDIS_ERRORS", "RedisAwayError", "RedisWatch"]

T = TypeVar("T")
REDIS_ERRORS = (RedisError, OSError, TimeoutError)
_log = logging.getLogger("mysingle.grpc")
_PROBE_KEY = "mysingle:probe"


class RedisAwayError(Exception):
    """Redis does not answer just now, or was not even asked because it did not before."""


class RedisWatch:
    """Lets commands through while Redis answers, and refuses at once while it does not.

    While it does not, it is asked in the background, never by a caller who would have to wait
    for the time-out. Going away and coming back is one log line each.

    Args:
        redis: Whom to ask.
        user: Who uses it, for the log.
        consequence: What happens without it, for the log.
        on_back: Runs when Redis answers again, before anybody else may ask; while it raises,
            Redis counts as away.
        retry_seconds: Pause between two tries.
    """

    def __init__(
        self,
        redis: Redis,
        user: str,
        consequence: str,
        *,
        on_back: Callable[[], Awaitable[None]] | None = None,
        retry_seconds: float = 1.0,
    ) -> None:
        self._redis = redis
        self._user = user
        self._consequence = consequence
        self._on_back = on_back
        self.retry_seconds = retry_seconds
        self._probe: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """Whether commands are refused."""
        return self._probe is not None

    async def ask(self, command: Callable[[], Awaitable[T]]) -> T:
        """What Redis answers to `command`.

        Raises:
            RedisAwayError: Redis failed, or has failed and is not back.
        """
        if self._probe is not None:
            raise RedisAwayError
        try:
            return await command()
        except REDIS_ERRORS as error:
            self.failed(error)
            raise RedisAwayError from error

    def failed(self, error: BaseException) -> None:
        """Counts Redis as away from here on, until it answers again."""
        if self._probe is None:
            _log.warning("%s: Redis is away (%s); %s", self._user, error, self._consequence)
            self._probe = asyncio.get_running_loop().create_task(self._until_back())

    async def back(self) -> None:
        """Returns when Redis answers."""
        if self._probe is not None:
            await asyncio.shield(self._probe)

    async def close(self) -> None:
        """Stops asking."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
            self._probe = None  # whoever uses it again asks again

    async def _until_back(self) -> None:
        while True:
            await asyncio.sleep(self.retry_seconds)
            try:
                # A write: a full or read-only Redis answers to PING, and is of no use.
                await self._redis.set(_PROBE_KEY, b"", px=1000)
                if self._on_back is not None:
                    await self._on_back()
            except REDIS_ERRORS:
                continue
            except Exception:
                _log.exception("%s: what Redis has to make up for failed", self._user)
                continue
            self._probe = None
            _log.info("%s: Redis is back", self._user)
            return
