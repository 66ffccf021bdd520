"""The second tier: Redis, shared by all processes of a service.

Whatever is wrong with Redis, these methods do not raise: the cache goes on with its first tier.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mysingle.database._watch import REDIS_ERRORS, RedisAwayError, RedisWatch
from mysingle.grpc._cache_key import escape
from mysingle.grpc._cache_pattern import KeyPattern

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Found", "SharedCache"]

_BATCH = 500
_MAX_OWED = 1000
_QUIET_SECONDS = 5.0

# A value, the milliseconds it has left, and the epoch. The epoch begins at a random number, so
# that one that was lost (a restart, an eviction) is never taken for the one before.
_GET = """
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
return {redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2]), redis.call('GET', KEYS[1])}
"""
# Stores a value only if nothing was invalidated since the caller began to compute it.
_SET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis knows of a key.

    Attributes:
        value: The value; None if there is none.
        ttl: Seconds the value has left.
        epoch: To give to `set`; None if Redis is away.
    """

    value: bytes | None
    ttl: float
    epoch: bytes | None


_NOTHING = Found(None, 0.0, None)


class SharedCache:
    """Values in Redis under a prefix, and word of what was invalidated.

    Args:
        connect: Makes a connection. There is one for each event loop that the cache is used in,
            one at a time.
        service: Whose values they are.
        on_invalidated: Called with each key (True) or pattern (False) that another process
            invalidates, and with the pattern `*` when word may have been missed.
        retry_seconds: Pause between tries while Redis is away.
    """

    def __init__(
        self,
        connect: Callable[[], Redis],
        service: str,
        on_invalidated: Callable[[str, bool], object],
        *,
        retry_seconds: float = 1.0,
    ) -> None:
        prefix = f"mysingle:cache:{escape(service).replace(':', '%3A')}:"
        self._values = f"{prefix}v:"
        self._epoch_key = f"{prefix}epoch"
        self._channel = f"{prefix}invalidated"
        self._origin = secrets.token_hex(8)
        self._connect = connect
        self._on_invalidated = on_invalidated
        self._retry_seconds = retry_seconds
        # What was invalidated while Redis was away, for when it is back.
        self._owed: dict[tuple[str, bool], None] = {}
        self._invalidating: set[asyncio.Task[int | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Task[None] | None = None
        # Set while word of invalidations arrives.
        self.listening = asyncio.Event()
        self._may_have_missed_word = False
        self._bind(connect())  # here, for the errors of a wrong URL

    def _bind(self, redis: Redis) -> None:
        self._redis = redis
        self._get = redis.register_script(_GET)
        self._set = redis.register_script(_SET)
        self.watch = RedisWatch(
            redis,
            "cache",
            "only this process's tier is used",
            on_back=self._pay,
            retry_seconds=self._retry_seconds,
        )

    def _use(self) -> None:
        """Begins to listen; anew in another event loop, as connections belong to one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                self._bind(self._connect())
                self.listening = asyncio.Event()
                self._may_have_missed_word = True
            self._loop = loop
            self._listener = None
        if self._listener is None or self._listener.done():
            self._listener = loop.create_task(self._keep_listening())

    async def get(self, key: str) -> Found:
        """What there is under a key."""
        self._use()
        try:
            value, left, epoch = await self.watch.ask(
                lambda: self._get(
                    keys=[self._epoch_key, self._values + key], args=[secrets.randbits(48)]
                )
            )
        except RedisAwayError:
            return _NOTHING
        return Found(value, left / 1000, epoch)

    async def set(self, key: str, value: bytes, ttl: float, epoch: bytes | None) -> bool | None:
        """Stores a value, unless something was invalidated since `epoch` was read.

        Returns:
            Whether it was stored; None if Redis is away.
        """
        self._use()
        name = self._values + key
        left = max(1, round(ttl * 1000))

        async def store() -> bool:
            if epoch is None:
                await self._redis.set(name, value, px=left)
                return True
            return bool(await self._set(keys=[self._epoch_key, name], args=[epoch, value, left]))

        try:
            return await self.watch.ask(store)
        except RedisAwayError:
            return None

    async def invalidate(self, text: str, *, exact: bool) -> int | None:
        """Drops a key, or the keys that match a pattern, and tells the other processes.

        Returns:
            How many were dropped; None if Redis is away, and it happens as soon as it is back.
        """
        self._use()
        # In a task of its own: a caller who is cancelled must not leave it half done.
        task = asyncio.get_running_loop().create_task(self._invalidate(text, exact))
        self._invalidating.add(task)
        task.add_done_callback(self._invalidating.discard)
        return await asyncio.shield(task)

    async def _invalidate(self, text: str, exact: bool) -> int | None:
        try:
            return await self.watch.ask(lambda: self._drop(text, exact))
        except RedisAwayError:
            if len(self._owed) >= _MAX_OWED:
                self._owed = {("*", False): None}
            else:
                self._owed[text, exact] = None
            return None

    async def close(self) -> None:
        """Stops listening and closes the connection."""
        if self._loop is not asyncio.get_running_loop():
            return  # never used, or in a loop that is gone with all it had
        await asyncio.gather(*self._invalidating, return_exceptions=True)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self.watch.close()
        await self._redis.aclose()

    async def _pay(self) -> None:
        while self._owed:
            text, exact = owed = next(iter(self._owed))
            await self._drop(text, exact)
            self._owed.pop(owed, None)

    async def _drop(self, text: str, exact: bool) -> int:
        # First the epoch: who computes an answer from here on reads what is true by now.
        await self._redis.incr(self._epoch_key)
        if exact:
            dropped = int(await self._redis.unlink(self._values + text))
        else:
            dropped = await self._drop_matching(KeyPattern(text))
        kind = "key" if exact else "pattern"
        await self._redis.publish(self._channel, f"{self._origin} {kind} {text}")
        return dropped

    async def _drop_matching(self, pattern: KeyPattern) -> int:
        dropped = 0
        batch: list[bytes] = []
        async for key in self._redis.scan_iter(self._values + pattern.glob, count=_BATCH):
            if pattern.matches(key.decode(errors="replace").removeprefix(self._values)):
                batch.append(key)
            if len(batch) >= _BATCH:
                dropped += await self._redis.unlink(*batch)
                batch.clear()
        if batch:
            dropped += await self._redis.unlink(*batch)
        return dropped

    async def _keep_listening(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    await self._listen(subscription)
            except REDIS_ERRORS:
                self.listening.clear()
                self._may_have_missed_word = True
                if self.watch.is_away:
                    await self.watch.back()
                else:
                    await asyncio.sleep(self._retry_seconds)

    async def _listen(self, subscription: Any) -> None:
        was_quiet = False
        while True:
            message = await subscription.get_message(timeout=_QUIET_SECONDS)
            if message is None:
                # A connection may be dead without a word: no answer to a ping tells.
                if was_quiet:
                    raise TimeoutError
                was_quiet = True
                await cast("Awaitable[Any]", subscription.ping())
                continue
            was_quiet = False
            if message["type"] == "subscribe":
                if self._may_have_missed_word:
                    self._on_invalidated("*", False)
                self._may_have_missed_word = True  # when it is this one's turn to end
                self.listening.set()
            elif message["type"] == "message":
                origin, _, word = message["data"].decode(errors="replace").partition(" ")
                kind, _, text = word.partition(" ")
                if origin != self._origin:
                    self._on_invalidated(text, kind == "key")
