"""`GrpcCache`: answers in memory, over answers in Redis."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from mysingle.core.config import CommonSettings
from mysingle.core.context import current
from mysingle.grpc._cache_key import key_of
from mysingle.grpc._cache_l1 import Entry, LocalCache
from mysingle.grpc._cache_misses import Miss, Misses
from mysingle.grpc._cache_pattern import KeyPattern
from mysingle.grpc._metrics import metrics_of

if TYPE_CHECKING:
    from mysingle.grpc._cache_l2 import SharedCache

__all__ = ["GrpcCache", "check_ttl"]

_LONG_REQUEST = 256


class GrpcCache:
    """A two-tier cache of protobuf messages.

    The first tier is this process's memory, the second Redis, where `REDIS_URL` is set. Messages
    are kept as `google.protobuf.Any`, never pickled; each look-up gives a message of its own.
    While Redis is away the first tier serves alone; no method raises because of it. What is
    invalidated meanwhile is invalidated in Redis as soon as it is back.

    Make it with [from_settings][GrpcCache.from_settings].

    Args:
        settings: Sizes, times and `REDIS_URL`.
        service_name: Whose answers these are; the same in all processes of a service.
        retry_seconds: Pause between tries while Redis is away.
    """

    def __init__(
        self, settings: CommonSettings, service_name: str, *, retry_seconds: float = 1.0
    ) -> None:
        self._service = service_name
        self._l2_ttl = float(settings.GRPC_CACHE_L2_TTL_SECONDS)
        self._l1 = LocalCache(settings.GRPC_CACHE_L1_MAX_SIZE, settings.GRPC_CACHE_L1_TTL_SECONDS)
        self._l2: SharedCache | None = None
        if settings.REDIS_URL:
            # Here, because Redis takes half a second to load.
            from mysingle.database import redis_client
            from mysingle.grpc._cache_l2 import SharedCache

            self._l2 = SharedCache(
                lambda: redis_client(settings, db=settings.REDIS_DB_GRPC),
                service_name,
                self._invalidated,
                retry_seconds=retry_seconds,
            )
        self._lookups = (
            metrics_of(settings.GRPC_METRICS_PREFIX, "server").cache_lookups
            if settings.GRPC_ENABLE_METRICS
            else None
        )
        self._counters: dict[tuple[str, str], Callable[[], None]] = {}
        # Grows with each invalidation that this process learns of, as the epoch in Redis does
        # with those of all.
        self._generation = 0
        self._misses = Misses()
        # To make a key takes longer than to look one up, so the keys of late are remembered.
        self._keys: dict[tuple[str, str, str, type[Message], bytes], str] = {}
        self._max_keys = 4 * settings.GRPC_CACHE_L1_MAX_SIZE

    @classmethod
    def from_settings(cls, settings: CommonSettings, service_name: str = "") -> GrpcCache:
        """The cache of a service.

        Raises:
            ConfigError: `REDIS_URL` is no Redis URL.
        """
        return cls(settings, service_name or settings.SERVICE_NAME)

    @property
    def generation(self) -> int:
        """Grows with each invalidation that this process learns of."""
        return self._generation

    def make_cache_key(
        self,
        method: str,
        request: Message,
        *,
        user_id: str | None = None,
        shared: bool = False,
        service: str | None = None,
    ) -> str:
        """The key of a request.

        Args:
            method: Name of the method.
            request: Its readable field values become part of the key, so that
                [invalidate_pattern][GrpcCache.invalidate_pattern] finds them.
            user_id: Whose answer it is; the caller's if left out.
            shared: The answer is the same for all users.
            service: Full name of the service; that of the call being served if left out.
        """
        context = current()
        if service is None:
            service = context.method[1:].partition("/")[0]
        user = "" if shared else f"u:{context.user_id if user_id is None else user_id}"
        raw = request.SerializeToString(deterministic=True)
        if len(raw) > _LONG_REQUEST:
            raw = hashlib.blake2b(raw).digest()
        known = (method, user, service, type(request), raw)
        key = self._keys.get(known)
        if key is None:
            if len(self._keys) >= self._max_keys:
                self._keys.clear()
            key = self._keys[known] = key_of(method, user, request, service)
        return key

    async def get_with_l1(self, key: str) -> Message | None:
        """The message under a key, from memory or Redis; None if there is none."""
        message, miss = await self.look_up(key)
        if miss is not None:
            self._misses.add(key, miss)
        return message

    async def set_with_l1(self, key: str, message: Message, ttl: float | None = None) -> None:
        """Keeps a message under a key, in memory and in Redis.

        Nothing is kept if anything was invalidated after the look-up that missed the key.

        Args:
            key: From [make_cache_key][GrpcCache.make_cache_key].
            message: Any protobuf message.
            ttl: Seconds; `GRPC_CACHE_L2_TTL_SECONDS` if left out. Memory keeps it no longer
                than `GRPC_CACHE_L1_TTL_SECONDS`.

        Raises:
            ValueError: `ttl` is not positive.
        """
        ttl = self._l2_ttl if ttl is None else check_ttl(ttl)
        await self.keep(key, message, ttl, self._misses.take(key))

    def get_from_l1(self, key: str) -> Message | None:
        """The message under a key if it is in memory; a miss is not counted as one."""
        entry = self._l1.get(key)
        if entry is None:
            return None
        self._count(key, "l1")
        return entry[0].FromString(entry[1])

    async def look_up(self, key: str) -> tuple[Message | None, Miss | None]:
        """The message under a key, or what [keep][GrpcCache.keep] needs to know of the miss."""
        message = self.get_from_l1(key)
        if message is not None:
            return message, None
        miss = Miss(self._generation)
        if self._l2 is not None:
            hears = self._l2.listening.is_set()
            found = await self._l2.get(key)
            entry = _unpack(found.value) if found.value is not None else None
            if entry is not None:
                if hears and found.ttl > 0 and miss.generation == self._generation:
                    self._l1.set(key, entry, found.ttl)
                self._count(key, "l2")
                return entry[0].FromString(entry[1]), None
            miss = Miss(miss.generation, found.epoch)
        self._count(key, "miss")
        return None, miss

    async def keep(self, key: str, message: Message, ttl: float, miss: Miss | None) -> None:
        """Keeps a message, unless anything was invalidated after `miss`; None for at all events."""
        generation = self._generation if miss is None else miss.generation
        if generation != self._generation:
            return
        entry = (type(message), message.SerializeToString())
        # Whether anything was invalidated while Redis was away, nobody knows: then only here.
        if self._l2 is not None and (miss is None or miss.epoch is not None):
            hears = self._l2.listening.is_set()
            epoch = None if miss is None else miss.epoch
            stored = await self._l2.set(key, _pack(message), ttl, epoch)
            # Memory keeps nothing that could be invalidated without its knowing, unless there
            # is no Redis to go without it.
            if stored is False or (stored is True and not hears):
                return
        if generation == self._generation:
            self._l1.set(key, entry, ttl)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Drops what matches, here, in Redis, and in the memory of other processes.

        Args:
            pattern: Of whole keys; `*` stands for any text and `?` for one character, as in
                `GetStrategyVersion*<strategy_id>*`. All else stands for itself, written as in
                the request.

        Returns:
            How many entries were dropped, in Redis where there is one, else here.
        """
        return await self._invalidate(pattern, exact=False)

    async def invalidate(self, key: str) -> int:
        """Drops one key; see [invalidate_pattern][GrpcCache.invalidate_pattern]."""
        return await self._invalidate(key, exact=True)

    async def close(self) -> None:
        """Closes the connection to Redis."""
        if self._l2 is not None:
            await self._l2.close()

    async def _invalidate(self, text: str, *, exact: bool) -> int:
        here = self._invalidated(text, exact)
        if self._l2 is None:
            return here
        try:
            dropped = await self._l2.invalidate(text, exact=exact)
        finally:
            # Again: until it was gone from Redis, it may have come back from there.
            self._invalidated(text, exact)
        return here if dropped is None else dropped

    def _invalidated(self, text: str, exact: bool) -> int:
        self._generation += 1
        if exact:
            return self._l1.drop(text)
        if text == "*":
            dropped = len(self._l1)
            self._l1.clear()
            return dropped
        return self._l1.drop_matching(KeyPattern(text))

    def _count(self, key: str, tier: str) -> None:
        if self._lookups is None:
            return
        # A key that was not made by us has no method, and must not become a label of its own.
        method = key.partition("|")[0] if "|" in key else ""
        count = self._counters.get((method, tier))
        if count is None:
            count = self._lookups.labels(self._service, method, tier).inc
            self._counters[method, tier] = count
        count()


def check_ttl(ttl: Any) -> float:
    """The seconds.

    Raises:
        ValueError: It is no positive, finite number.
    """
    is_number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if is_number and 0 < ttl < math.inf:
        return float(ttl)
    raise ValueError(f"ttl must be positive, not {ttl!r}")


def _pack(message: Message) -> bytes:
    packed = AnyMessage()
    packed.Pack(message)
    return packed.SerializeToString()


def _unpack(packed: bytes) -> Entry | None:
    """The class and its bytes; None if it is of a type that this process does not know."""
    try:
        any_message = AnyMessage.FromString(packed)
        descriptor = descriptor_pool.Default().FindMessageTypeByName(any_message.TypeName())
        kind = message_factory.GetMessageClass(descriptor)
        kind.FromString(any_message.value)
    except (DecodeError, KeyError):
        return None
    return kind, any_message.value
