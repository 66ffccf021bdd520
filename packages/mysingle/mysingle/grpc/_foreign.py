"""Interceptors of grpcio's own kind (`grpc.aio.ServerInterceptor`), on any engine.

Such an interceptor is asked for a handler at each call, as grpc.aio does it: it gets the method
and the metadata and may give another handler, even one of another shape.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from mysingle.grpc._codec import decoder, encoder
from mysingle.grpc._context import CallContext
from mysingle.grpc._method import Method

__all__ = ["through_foreign"]


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Any


def through_foreign(
    method: Method,
    handler: grpc.RpcMethodHandler[Any, Any],
    foreign: Sequence[grpc.aio.ServerInterceptor],
    servicer_of: Callable[[grpc.RpcMethodHandler[Any, Any]], Callable[[Any, CallContext], Any]],
    max_send: int,
) -> Callable[[Any, CallContext], Any]:
    """A servicer that takes and gives bytes and asks `foreign` for the handler at each call."""

    async def find(interceptors: Sequence[grpc.aio.ServerInterceptor], details: Any) -> Any:
        if not interceptors:
            return handler
        following = functools.partial(find, interceptors[1:])
        return await interceptors[0].intercept_service(following, details)

    async def chosen(call: CallContext) -> grpc.RpcMethodHandler[Any, Any]:
        details = _Details(method.full_name, call.invocation_metadata())
        found: grpc.RpcMethodHandler[Any, Any] | None = await find(tuple(foreign), details)
        if found is None:
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        call.use_codec(
            decoder(method, found.request_deserializer),
            encoder(method, found.response_serializer, max_send),
        )
        return found

    async def call_chosen(
        found: grpc.RpcMethodHandler[Any, Any], raw: Any, call: CallContext
    ) -> Any:
        """What the handler's function gives, its request in the handler's own shape."""
        request = raw
        if not found.request_streaming:
            if method.request_streaming:
                request = await call.read()
            else:
                request = call.parse(raw)
        elif not method.request_streaming:
            request = _one(call.parse(raw))
        return servicer_of(found)(request, call)

    async def messages(raw: Any, call: CallContext) -> AsyncIterator[Any]:
        found = await chosen(call)
        results = await call_chosen(found, raw, call)
        if hasattr(results, "__aiter__"):
            try:
                async for message in results:
                    yield message
            finally:
                if hasattr(results, "aclose"):
                    await results.aclose()
        else:
            message = await results
            if not found.response_streaming:
                yield message

    async def message(raw: Any, call: CallContext) -> Any:
        found = await chosen(call)
        results = await call_chosen(found, raw, call)
        if not hasattr(results, "__aiter__"):
            return await results
        return await anext(results)

    return messages if method.response_streaming else message


async def _one(message: Any) -> AsyncIterator[Any]:
    yield message
