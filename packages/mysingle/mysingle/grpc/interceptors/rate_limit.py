"""Step 3: not more than so many requests of one user in a while."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._context import CallContext
from mysingle.grpc._errors import GrpcError
from mysingle.grpc._method import Method
from mysingle.grpc._metrics import metrics_of
from mysingle.grpc._rate_window import LocalWindow, RedisWindow, Verdict
from mysingle.grpc.interceptors._base import Interceptor

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from mysingle.database._watch import RedisWatch

__all__ = ["RateLimitInterceptor"]

_NEVER_LIMITED = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)
_RETRY_SECONDS = 1.0


class RateLimitInterceptor(Interceptor):
    """Refuses with `RESOURCE_EXHAUSTED` what goes beyond the limit.

    That is `GRPC_RATE_LIMIT_MAX_REQUESTS` in any `GRPC_RATE_LIMIT_WINDOW_SECONDS`, counted for
    each user, or for each peer's address where nobody is identified.

    Limit, remaining requests and seconds until one more passes go out as trailing metadata
    `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset`.

    Raises:
        ConfigError: `GRPC_RATE_LIMIT_BACKEND` is `redis` and `REDIS_URL` is not set.
    """

    def __init__(self, settings: CommonSettings) -> None:
        self._limit = str(settings.GRPC_RATE_LIMIT_MAX_REQUESTS)
        window = (settings.GRPC_RATE_LIMIT_MAX_REQUESTS, settings.GRPC_RATE_LIMIT_WINDOW_SECONDS)
        self._local = LocalWindow(*window)
        self._shared: RedisWindow | None = None
        self._redis: Redis | None = None
        self._watch: RedisWatch | None = None
        self._refuse_without_redis = settings.GRPC_RATE_LIMIT_REDIS_AWAY == "refuse"
        backend = settings.GRPC_RATE_LIMIT_BACKEND
        if backend == "redis" and not settings.REDIS_URL:
            raise ConfigError("GRPC_RATE_LIMIT_BACKEND=redis needs REDIS_URL")
        if backend != "local" and settings.REDIS_URL:
            # Here, because Redis takes half a second to load.
            from mysingle.database import redis_client
            from mysingle.database._watch import RedisWatch

            self._redis = redis_client(settings, db=settings.REDIS_DB_RATE_LIMIT)
            self._shared = RedisWindow(
                self._redis, *window, prefix=f"mysingle:rate:{settings.SERVICE_NAME}:"
            )
            self._watch = RedisWatch(
                self._redis,
                "rate limit",
                "calls are refused"
                if self._refuse_without_redis
                else "each process counts for itself",
            )
        self._limited = (
            metrics_of(settings.GRPC_METRICS_PREFIX, "server").limited
            if settings.GRPC_ENABLE_METRICS
            else None
        )

    def for_method(self, method: Method) -> Interceptor | None:
        """Leaves out health and reflection."""
        return None if method.service in _NEVER_LIMITED else self

    def before(self, call: CallContext) -> Awaitable[None] | None:
        """Counts the call.

        Raises:
            GrpcError: `RESOURCE_EXHAUSTED` beyond the limit; `UNAVAILABLE` while Redis is away
                and `GRPC_RATE_LIMIT_REDIS_AWAY` is `refuse`.
        """
        user_id = call.user_id
        key = f"user:{user_id}" if user_id else f"peer:{_host(call.peer())}"
        shared, watch = self._shared, self._watch
        if shared is not None and watch is not None:
            if not watch.is_away:
                return self._by_redis(call, key, shared, watch)
            self._without_redis(call, key)
            return None
        self._apply(call, self._local.hit(key))
        return None

    async def close(self) -> None:
        """Closes the connection to Redis."""
        if self._watch is not None:
            await self._watch.close()
        if self._redis is not None:
            await self._redis.aclose()

    async def _by_redis(
        self, call: CallContext, key: str, shared: RedisWindow, watch: RedisWatch
    ) -> None:
        from mysingle.database._watch import RedisAwayError

        try:
            verdict = await watch.ask(lambda: shared.hit(key))
        except RedisAwayError:
            self._without_redis(call, key)
        else:
            self._apply(call, verdict)

    def _without_redis(self, call: CallContext, key: str) -> None:
        if self._refuse_without_redis:
            raise GrpcError(
                grpc.StatusCode.UNAVAILABLE,
                "The rate limit cannot be checked just now",
                retry_after=_RETRY_SECONDS,
            )
        self._apply(call, self._local.hit(key))

    def _apply(self, call: CallContext, verdict: Verdict) -> None:
        call.add_trailing(
            ("x-ratelimit-limit", self._limit),
            ("x-ratelimit-remaining", str(verdict.remaining)),
            ("x-ratelimit-reset", str(math.ceil(verdict.reset_seconds))),
        )
        if verdict.allowed:
            return
        if self._limited is not None:
            method = call.method
            self._limited.labels(method.grpc_type, method.service, method.name).inc()
        raise GrpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Rate limit exceeded: {self._limit} requests in the window",
            retry_after=verdict.reset_seconds,
        )


def _host(peer: str) -> str:
    """`ipv4:10.0.0.1:5000` → `ipv4:10.0.0.1`: a caller has a port for each connection."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
