"""`GrpcCache`: answers in memory, over answers in Redis."""

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from mysingle.core.config import CommonSettings
from mysingle.core.context import current
from mysingle.database import redis_client
from mysingle.grpc._cache_key import key_of, pattern_of
from mysingle.grpc._cache_l1 import LocalCache
from mysingle.grpc._cache_l2 import SharedCache
from mysingle.grpc._metrics import metrics_of

__all__ = ["GrpcCache"]


class GrpcCache:
    """A two-tier cache of protobuf messages.

    The first tier is this process's memory, the second Redis, where `REDIS_URL` is set. Messages
    are kept as `google.protobuf.Any`, never pickled; each look-up gives a message of its own.
    While Redis is away the first tier serves alone; no method raises because of it.

    Make it with [from_settings][GrpcCache.from_settings].
    """

    def __init__(self, settings: CommonSettings, service_name: str) -> None:
        self._service = service_name
        self._l2_ttl = float(settings.GRPC_CACHE_L2_TTL_SECONDS)
        self._l1 = LocalCache(settings.GRPC_CACHE_L1_MAX_SIZE, settings.GRPC_CACHE_L1_TTL_SECONDS)
        self._l2: SharedCache | None = None
        if settings.REDIS_URL:
            self._l2 = SharedCache(
                redis_client(settings, db=settings.REDIS_DB_GRPC),
                f"mysingle:cache:{service_name}:",
                self._invalidated,
            )
        self._lookups = (
            metrics_of(settings.GRPC_METRICS_PREFIX, "server").cache_lookups
            if settings.GRPC_ENABLE_METRICS
            else None
        )
        # Grows with each invalidation in this process, as the epoch in Redis does for all.
        self._generation = 0
        self._epochs: dict[str, tuple[str | None, int]] = {}

    @classmethod
    def from_settings(cls, settings: CommonSettings, service_name: str = "") -> GrpcCache:
        """The cache of a service.

        Raises:
            ConfigError: `REDIS_URL` is no Redis URL.
        """
        return cls(settings, service_name or settings.SERVICE_NAME)

    def make_cache_key(
        self, method: str, request: Message, *, user_id: str | None = None, shared: bool = False
    ) -> str:
        """The key of a request.

        Args:
            method: Name of the method.
            request: Its readable field values become part of the key, so that
                [invalidate_pattern][GrpcCache.invalidate_pattern] finds them.
            user_id: Whose answer it is; the caller's if left out.
            shared: The answer is the same for all users.
        """
        if shared:
            return key_of(method, "", request)
        return key_of(method, f"u:{current().user_id if user_id is None else user_id}", request)

    async def get_with_l1(self, key: str) -> Message | None:
        """The message under a key, from memory or Redis; None if there is none."""
        packed = self._l1.get(key)
        tier = "l1"
        if packed is None and self._l2 is not None:
            generation = self._generation
            packed, epoch = await self._l2.get(key)
            tier = "l2"
            if packed is None:
                self._remember(key, epoch, generation)
            elif generation == self._generation:
                self._l1.set(key, packed, self._l2_ttl)
        message = _unpack(packed) if packed is not None else None
        self._count(key, tier if message is not None else "miss")
        return message

    def get_from_l1(self, key: str) -> Message | None:
        """The message under a key if it is in memory; a miss is not counted as one."""
        packed = self._l1.get(key)
        message = _unpack(packed) if packed is not None else None
        if message is not None:
            self._count(key, "l1")
        return message

    async def set_with_l1(self, key: str, message: Message, ttl: float | None = None) -> None:
        """Keeps a message under a key, in memory and in Redis.

        Nothing is kept if a matching entry was invalidated after the look-up that missed it.

        Args:
            key: From [make_cache_key][GrpcCache.make_cache_key].
            message: Any protobuf message.
            ttl: Seconds; `GRPC_CACHE_L2_TTL_SECONDS` if left out. Memory keeps it no longer
                than `GRPC_CACHE_L1_TTL_SECONDS`.

        Raises:
            ValueError: `ttl` is not positive.
        """
        ttl = self._l2_ttl if ttl is None else ttl
        if ttl <= 0:
            raise ValueError(f"ttl must be positive, not {ttl}")
        any_message = AnyMessage()
        any_message.Pack(message)
        packed = any_message.SerializeToString()
        epoch, generation = self._epochs.pop(key, (None, self._generation))
        if generation != self._generation:
            return
        if self._l2 is not None and not await self._l2.set(key, packed, ttl, epoch):
            return
        if generation == self._generation:
            self._l1.set(key, packed, ttl)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Drops what matches, here, in Redis, and in the memory of other processes.

        Args:
            pattern: Of whole keys; `*` stands for any text and `?` for one character, as in
                `GetStrategyVersion*<strategy_id>*`.

        Returns:
            How many entries were dropped, in Redis where there is one, else here.
        """
        pattern = pattern_of(pattern)
        self._generation += 1
        here = self._l1.invalidate(pattern)
        return await self._l2.invalidate(pattern) if self._l2 is not None else here

    async def invalidate(self, key: str) -> int:
        """Drops one key; see [invalidate_pattern][GrpcCache.invalidate_pattern]."""
        return await self.invalidate_pattern(key)

    async def close(self) -> None:
        """Closes the connection to Redis."""
        if self._l2 is not None:
            await self._l2.close()

    def _invalidated(self, pattern: str) -> None:
        self._generation += 1
        self._l1.invalidate(pattern)

    def _count(self, key: str, tier: str) -> None:
        if self._lookups is not None:
            self._lookups.labels(self._service, key.partition("|")[0], tier).inc()

    def _remember(self, key: str, epoch: str | None, generation: int) -> None:
        """What was true when a look-up missed, for the `set` that follows it."""
        if len(self._epochs) >= 10_000:  # look-ups that no set followed
            self._epochs.clear()
        self._epochs[key] = (epoch, generation)


def _unpack(packed: bytes) -> Message | None:
    """The message; None if it is of a type that this process does not know."""
    try:
        any_message = AnyMessage.FromString(packed)
        descriptor = descriptor_pool.Default().FindMessageTypeByName(any_message.TypeName())
        message = message_factory.GetMessageClass(descriptor)()
        any_message.Unpack(message)
    except (DecodeError, KeyError):
        return None
    return message
