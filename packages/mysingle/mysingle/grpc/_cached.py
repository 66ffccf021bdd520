"""`@grpc_cached`: a servicer's method answers from the cache."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from mysingle.core.errors import ConfigError
from mysingle.grpc._cache import GrpcCache, check_ttl
from mysingle.grpc._cache_flight import Answer, Flights
from mysingle.grpc._context import CallContext
from mysingle.grpc._threads import run_in_thread

__all__ = ["grpc_cached"]

MethodT = TypeVar("MethodT", bound=Callable[..., Any])
Compute = Callable[[], Any]
_FLIGHTS = "_grpc_cache_flights"


def grpc_cached(ttl: float, *, shared: bool = False) -> Callable[[MethodT], MethodT]:
    """Answers a unary method from `self._grpc_cache`, and computes what is not there.

    Many callers who miss the same answer at the same time share one computation; one user's
    share an error of it too. Errors and answers with a status other than OK are not kept. If the
    caller whose call computes leaves, another one takes over. Nobody gets an answer whose
    computation began before an invalidation that this process knew of when the call came in.

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
    try:
        seconds = check_ttl(ttl)
    except ValueError:
        raise ValueError(f"@grpc_cached needs a positive ttl in seconds, not {ttl!r}") from None

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
                return await run_in_thread(bound, request, context)
            return await asyncio.to_thread(bound, request, context)

        @functools.wraps(function)
        async def answer(self: Any, request: Any, context: Any) -> Any:
            cache = getattr(self, "_grpc_cache", None)
            if not isinstance(cache, GrpcCache):
                raise ConfigError(
                    f"{type(self).__name__}.{name} is @grpc_cached, so its __init__ must set "
                    "self._grpc_cache = GrpcCache.from_settings(settings, service_name=...)"
                )
            key = cache.make_cache_key(name, request, shared=shared)
            found = cache.get_from_l1(key)
            if found is not None:
                return found
            flights = self.__dict__.get(_FLIGHTS)
            if flights is None:
                flights = self.__dict__[_FLIGHTS] = Flights()
            return await _fly(
                flights,
                cache,
                key,
                seconds,
                context,
                lambda: compute(self, request, context),
                shares_errors=not shared,
            )

        answer.__grpc_cached__ = True  # type: ignore[attr-defined]  # for the registrar's checks
        return cast("MethodT", answer)

    return decorate


async def _fly(
    flights: Flights,
    cache: GrpcCache,
    key: str,
    ttl: float,
    context: Any,
    compute: Compute,
    *,
    shares_errors: bool,
) -> Any:
    """Shares the computation that is under way, or leads one."""
    while True:
        flight = flights.join(key, cache.generation)
        if flight is None:
            break
        # Shielded: a follower who leaves must not take the answer from the others.
        shared = await asyncio.shield(flight)
        if shared is not None:
            return shared.give(context)
        found = cache.get_from_l1(key)
        if found is not None:
            return found

    with flights.lead(key, cache.generation, shares_errors=shares_errors) as land:
        # Redis is asked inside of the flight, or a late follower could miss in both: in Redis
        # before the answer was there, in flight after it had landed.
        message, miss = await cache.look_up(key)
        if message is None:
            message = await compute()
            if isinstance(message, Message) and _is_ok(context):
                # First the followers, who need not wait for Redis nor suffer if this caller
                # leaves meanwhile.
                land(Answer.of(message, None))
                await cache.keep(key, message, ttl, miss)
                return message
        land(Answer.of(message, context))
        return message


def _is_ok(context: Any) -> bool:
    code = context.code() if hasattr(context, "code") else None
    return code in (None, 0, grpc.StatusCode.OK)
