"""The channel under generated stubs: identity, deadline, breaker and metrics of calls going out.

It wraps the multi-callables of another channel instead of using grpc.aio's interceptors, which
cost a task and several objects for each call.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import grpc
import grpc.aio

from mysingle.core.context import current_or_none
from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc._client_calls import (
    CallRecord,
    Codec,
    NeverSent,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
    outgoing,
)
from mysingle.grpc._client_metadata import OutgoingMetadata
from mysingle.grpc._errors import GrpcError
from mysingle.grpc._method import Method
from mysingle.grpc._metrics import MethodMetrics, Metrics

__all__ = ["ClientChannel", "Transport"]


class Transport:
    """What all clients of one target share: connection, breaker, multi-callables.

    Args:
        channel: Moves the bytes.
        target: For messages about it.
        breaker: Of the target.
        metrics: Of the client side; None counts nothing.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        target: str,
        breaker: CircuitBreaker,
        metrics: Metrics | None,
    ) -> None:
        self.channel = channel
        self.target = target
        self.breaker = breaker
        self._metrics = metrics
        self._made: dict[Any, tuple[Any, Codec, MethodMetrics | None]] = {}

    def multicallable(
        self, kind: str, method: str, serializer: Any, deserializer: Any, registered: bool
    ) -> tuple[Any, Codec, MethodMetrics | None]:
        """The channel's own multi-callable for bytes, the codec and the metrics, made once."""
        key = (kind, method, serializer, deserializer)
        made = self._made.get(key)
        if made is None:
            request, response = (part == "stream" for part in kind.split("_"))
            metrics = None
            if self._metrics is not None:
                metrics = self._metrics.of(Method(method, request, response))
            inner = getattr(self.channel, kind)(method, _registered_method=registered)
            made = self._made[key] = (inner, Codec(serializer, deserializer), metrics)
        return made


class ClientChannel(grpc.aio.Channel):
    """A channel that generated stubs accept; each client has its own.

    Args:
        transport: Shared with other clients.
        metadata: Of the client's calls.
        timeout: Seconds the client gives each call; None leaves it to the enclosing call.
        default_timeout: Seconds of a call that nothing else limits.
    """

    def __init__(
        self,
        transport: Transport,
        metadata: OutgoingMetadata,
        timeout: float | None,
        default_timeout: float,
    ) -> None:
        self.transport = transport
        self.metadata = metadata
        self.timeout = timeout
        self.default_timeout = default_timeout

    def seconds(self, timeout: float | None) -> float:
        """How long a call may take that was given `timeout`."""
        if timeout is None:
            timeout = self.timeout
        context = current_or_none()
        left = context.time_remaining() if context is not None else None
        if left is None:
            return self.default_timeout if timeout is None else timeout
        return left if timeout is None else min(left, timeout)

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.unary_unary`."""
        made = self.transport.multicallable(
            "unary_unary",
            method,
            request_serializer,
            response_deserializer,
            bool(_registered_method),
        )
        return _UnaryUnary(self, *made)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.unary_stream`."""
        made = self.transport.multicallable(
            "unary_stream",
            method,
            request_serializer,
            response_deserializer,
            bool(_registered_method),
        )
        return _UnaryStream(self, *made)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.stream_unary`."""
        made = self.transport.multicallable(
            "stream_unary",
            method,
            request_serializer,
            response_deserializer,
            bool(_registered_method),
        )
        return _StreamUnary(self, *made)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.stream_stream`."""
        made = self.transport.multicallable(
            "stream_stream",
            method,
            request_serializer,
            response_deserializer,
            bool(_registered_method),
        )
        return _StreamStream(self, *made)

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the transport is shared, and closed by those who share it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The transport's state."""
        return self.transport.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the transport's state is another one."""
        await self.transport.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when the transport is connected."""
        await self.transport.channel.channel_ready()


class _MultiCallable:
    """What a stub's attribute is: called with a request, it gives a call.

    As in grpc.aio that never raises because of the call itself; the caller meets the error
    where it awaits, reads or writes.
    """

    _wrapper: ClassVar[Any]

    _one_request: ClassVar[bool]

    def __init__(
        self, channel: ClientChannel, inner: Any, codec: Codec, metrics: MethodMetrics | None
    ) -> None:
        self._channel = channel
        self._inner = inner
        self._codec = codec
        self._metrics = metrics

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        channel = self._channel
        breaker = channel.transport.breaker
        try:
            seconds = channel.seconds(timeout)
            if seconds <= 0:
                raise GrpcError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "The deadline had passed before the call was sent",
                )
            sent = channel.metadata.of_call(metadata)
            if self._one_request:
                request = self._codec.write(request)
            wait = breaker.seconds_to_wait()
            if wait > 0:
                raise GrpcError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"circuit open for {channel.transport.target}, next try in {wait:.1f} s",
                    retry_after=wait,
                )
        except GrpcError as error:
            record = CallRecord(None, self._metrics, self._codec)
            return self._wrapper(NeverSent(error), record)
        record = CallRecord(breaker, self._metrics, self._codec)
        try:
            call = self._inner(
                request if self._one_request else outgoing(request, record),
                timeout=None if seconds == math.inf else seconds,
                metadata=sent,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
        except BaseException:  # such as metadata of a wrong type; it says nothing of the target
            record.end(grpc.StatusCode.CANCELLED)
            raise
        if self._one_request and self._metrics is not None:
            self._metrics.sent()
        return self._wrapper(call, record)


class _OneRequest(_MultiCallable):
    _one_request = True

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class _ManyRequests(_MultiCallable):
    _one_request = False

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class _UnaryUnary(_OneRequest, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    _wrapper = UnaryUnaryCall


class _UnaryStream(_OneRequest, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    _wrapper = UnaryStreamCall


class _StreamUnary(_ManyRequests, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    _wrapper = StreamUnaryCall


class _StreamStream(_ManyRequests, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    _wrapper = StreamStreamCall
