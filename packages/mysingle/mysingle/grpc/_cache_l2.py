"""The second tier: Redis, shared by all processes of a service.

Whatever is wrong with Redis, these methods do not raise: the cache goes on with its first tier.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

__all__ = ["SharedCache"]

_log = logging.getLogger("mysingle.grpc")
_RETRY_SECONDS = 1.0
_BATCH = 500
_AWAY = (RedisError, OSError, TimeoutError)

# Stores a value only if nothing was invalidated since the caller began to compute it.
_SET = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""


class SharedCache:
    """Values in Redis under a prefix, and word of what was invalidated.

    Args:
        redis: The connection.
        prefix: Before each key.
        on_invalidated: Called with each pattern that any process invalidates, and with `*`
            when word may have been missed.
    """

    def __init__(self, redis: Redis, prefix: str, on_invalidated: Callable[[str], None]) -> None:
        self._redis = redis
        self._prefix = prefix
        self._epoch_key = f"{prefix}epoch"
        self._channel = f"{prefix}invalidated"
        self._on_invalidated = on_invalidated
        self._set = redis.register_script(_SET)
        self._away_until = 0.0
        self._listener: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    async def get(self, key: str) -> tuple[bytes | None, str | None]:
        """The value, and the epoch to give to `set`; (None, None) while Redis is away."""
        self._listen()
        answer = await self._try(
            lambda: self._redis.mget(f"{self._prefix}v:{key}", self._epoch_key)
        )
        if answer is None:
            return None, None
        value, epoch = answer
        return value, (epoch or b"0").decode()

    async def set(self, key: str, value: bytes, ttl: float, epoch: str | None) -> bool:
        """Stores a value, unless something was invalidated since `epoch` was read.

        Returns:
            Whether the value may be kept: also true while Redis is away.
        """
        self._listen()
        keys = [self._epoch_key, f"{self._prefix}v:{key}"]
        if epoch is None:
            await self._try(lambda: self._redis.set(keys[1], value, px=max(1, round(ttl * 1000))))
            return True
        kept = await self._try(
            lambda: self._set(keys=keys, args=[epoch, value, max(1, round(ttl * 1000))])
        )
        return kept is None or bool(kept)

    async def invalidate(self, pattern: str) -> int:
        """Drops the keys that match a pattern of Redis and tells the other processes."""
        dropped = await self._try(lambda: self._drop(pattern))
        return dropped or 0

    async def close(self) -> None:
        """Stops listening and closes the connection."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._redis.aclose()

    async def _drop(self, pattern: str) -> int:
        # First the epoch: who computes an answer from here on reads what is true by now.
        await self._redis.incr(self._epoch_key)
        dropped = 0
        batch: list[bytes] = []
        async for key in self._redis.scan_iter(f"{self._prefix}v:{pattern}", count=_BATCH):
            batch.append(key)
            if len(batch) >= _BATCH:
                dropped += await self._redis.unlink(*batch)
                batch.clear()
        if batch:
            dropped += await self._redis.unlink(*batch)
        await self._redis.publish(self._channel, pattern)
        return dropped

    async def _try(self, command: Callable[[], Any]) -> Any:
        if time.monotonic() < self._away_until:
            return None
        try:
            answer = await command()
        except _AWAY as error:
            if not self._away_until:
                _log.warning("cache: Redis is away (%s); only this process's tier is used", error)
            self._away_until = time.monotonic() + _RETRY_SECONDS
            return None
        if self._away_until:
            self._away_until = 0.0
            _log.info("cache: Redis is back")
        return answer

    def _listen(self) -> None:
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._keep_listening())

    async def _keep_listening(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=False) as subscription:
                    await subscription.subscribe(self._channel)
                    while True:
                        message = await subscription.get_message(timeout=None)
                        if message is None:
                            continue
                        if message["type"] == "subscribe":
                            # Whatever was invalidated while nobody listened is unknown.
                            self._on_invalidated("*")
                            self.listening.set()
                        elif message["type"] == "message":
                            self._on_invalidated(message["data"].decode())
            except _AWAY:
                self.listening.clear()
                self._on_invalidated("*")
                await asyncio.sleep(_RETRY_SECONDS)
