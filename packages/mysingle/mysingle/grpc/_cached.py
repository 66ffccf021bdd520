"""`@grpc_cached`: a servicer's method answers from the cache."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import grpc

from mysingle.core.errors import ConfigError
from mysingle.grpc._cache import GrpcCache
from mysingle.grpc._context import CallContext
from mysingle.grpc._threads import run_in_thread

__all__ = ["grpc_cached"]

MethodT = TypeVar("MethodT", bound=Callable[..., Any])
_FLIGHTS = "_grpc_cache_flights"


def grpc_cached(ttl: float, *, shared: bool = False) -> Callable[[MethodT], MethodT]:
    """Answers a unary method from `self._grpc_cache`, and computes what is not there.

    Many callers who miss the same answer at the same time share one computation. Errors and
    answers with a status other than OK are not kept. If the caller whose call computes leaves,
    another one takes over.

    Args:
        ttl: Seconds an answer is kept.
        shared: The answer is the same for all users; otherwise each user has answers of their
            own.

    Raises:
        TypeError: The method streams; there is no one answer to keep.
        ValueError: `ttl` is not positive.

    Example:
        class Strategies(strategy_pb2_grpc.StrategyServiceServicer):
            def __init__(self):
                self._grpc_cache = GrpcCache.from_settings(settings)

            @grpc_cached(ttl=300)
            async def GetStrategyVersion(self, request, context): ...
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not ttl > 0:
        raise ValueError(f"@grpc_cached needs a positive ttl in seconds, not {ttl!r}")

    def decorate(function: MethodT) -> MethodT:
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@grpc_cached: {function.__qualname__} streams; it is for unary methods"
            )
        name = function.__name__
        is_async = inspect.iscoroutinefunction(function)

        async def compute(servicer: Any, request: Any, context: Any) -> Any:
            if is_async:
                return await function(servicer, request, context)
            bound = functools.partial(function, servicer)
            if isinstance(context, CallContext):
                return await run_in_thread(bound, request, context, None)
            return await asyncio.to_thread(bound, request, context)

        @functools.wraps(function)
        async def answer(self: Any, request: Any, context: Any) -> Any:
            cache = _cache_of(self, name)
            key = cache.make_cache_key(name, request, shared=shared)
            while True:
                found = cache.get_from_l1(key)
                if found is not None:
                    return found
                flights: dict[str, asyncio.Future[Any]] = self.__dict__.setdefault(_FLIGHTS, {})
                flight = flights.get(key)
                if flight is None:
                    return await lead(flights, cache, key, self, request, context)
                done = await _outcome_of(flight)
                if done is not _ABANDONED:
                    copy = type(done)()
                    copy.CopyFrom(done)
                    return copy

        async def lead(
            flights: dict[str, asyncio.Future[Any]],
            cache: GrpcCache,
            key: str,
            servicer: Any,
            request: Any,
            context: Any,
        ) -> Any:
            flight = flights[key] = asyncio.get_running_loop().create_future()
            try:
                # Redis is asked inside of the flight, or a late follower could miss in both: in
                # Redis before the answer was there, in flight after it had landed.
                message = await cache.get_with_l1(key)
                if message is not None:
                    flight.set_result(message)
                    return message
                message = await compute(servicer, request, context)
                if _is_ok(context):
                    await cache.set_with_l1(key, message, ttl)
                    flight.set_result(message)
                else:  # a status of the leader's own call, which the message does not carry
                    flight.set_result(_ABANDONED)
            except asyncio.CancelledError:
                flight.set_result(_ABANDONED)
                raise
            except Exception as error:
                flight.set_exception(error)
                flight.exception()  # said to be seen: there may be no followers
                raise
            finally:
                del flights[key]
            return message

        answer.__grpc_cached__ = True  # type: ignore[attr-defined]  # for the registrar's checks
        return cast("MethodT", answer)

    return decorate


_ABANDONED = object()


async def _outcome_of(flight: asyncio.Future[Any]) -> Any:
    # Shielded: a follower who leaves must not take the answer from the others.
    return await asyncio.shield(flight)


def _is_ok(context: Any) -> bool:
    code = context.code() if hasattr(context, "code") else None
    return code in (None, 0, grpc.StatusCode.OK)


def _cache_of(servicer: Any, name: str) -> GrpcCache:
    cache = getattr(servicer, "_grpc_cache", None)
    if not isinstance(cache, GrpcCache):
        raise ConfigError(
            f"{type(servicer).__name__}.{name} is @grpc_cached, so its __init__ must set "
            "self._grpc_cache = GrpcCache.from_settings(settings, service_name=...)"
        )
    return cache
