"""The channel under generated stubs: identity, deadline, breaker and metrics of calls going out.

It wraps the multi-callables of another channel instead of using grpc.aio's interceptors, which
cost a task and several objects for each call.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Protocol, Self

import grpc
import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.core.context import current_or_none
from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc._errors import GrpcCallError
from mysingle.grpc._method import Method
from mysingle.grpc._metrics import MethodMetrics, metrics_of

__all__ = ["ClientChannel", "MetadataSource"]

MetadataPairs = Sequence[tuple[str, str | bytes]]


class MetadataSource(Protocol):
    """Gives the metadata of each call going out."""

    def __call__(self) -> MetadataPairs: ...


class ClientChannel(grpc.aio.Channel):
    """A channel that generated stubs accept.

    Args:
        channel: Moves the bytes.
        target: For messages about it.
        settings: Deadline, prefix of metrics.
        breaker: Of the target.
        metadata: Of the client.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        target: str,
        settings: CommonSettings,
        breaker: CircuitBreaker,
        metadata: MetadataSource,
    ) -> None:
        self._channel = channel
        self.target = target
        self.timeout = settings.GRPC_CLIENT_TIMEOUT_SECONDS
        self.breaker = breaker
        self.metadata = metadata
        self._metrics = (
            metrics_of(settings.GRPC_METRICS_PREFIX, "client")
            if settings.GRPC_ENABLE_METRICS
            else None
        )

    def _callable(self, kind: str, method: str, arguments: tuple[Any, ...], keywords: Any) -> Any:
        request_streaming, response_streaming = (part == "stream" for part in kind.split("_"))
        described = Method(method, request_streaming, response_streaming)
        metrics = self._metrics.of(described) if self._metrics is not None else None
        inner = getattr(self._channel, kind)(method, *arguments, **keywords)
        wrapper = StreamCall if response_streaming else UnaryCall
        return _MultiCallable(self, inner, wrapper, metrics)

    def unary_unary(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """As `grpc.aio.Channel.unary_unary`."""
        return self._callable("unary_unary", method, arguments, keywords)

    def unary_stream(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """As `grpc.aio.Channel.unary_stream`."""
        return self._callable("unary_stream", method, arguments, keywords)

    def stream_unary(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """As `grpc.aio.Channel.stream_unary`."""
        return self._callable("stream_unary", method, arguments, keywords)

    def stream_stream(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """As `grpc.aio.Channel.stream_stream`."""
        return self._callable("stream_stream", method, arguments, keywords)

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the transport is shared, and closed by those who share it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The transport's state."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the transport's state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when the transport is connected."""
        await self._channel.channel_ready()


class _MultiCallable:
    """What a stub's attribute is: called with a request, it gives a call."""

    def __init__(
        self,
        channel: ClientChannel,
        inner: Any,
        wrapper: type[_Call],
        metrics: MethodMetrics | None,
    ) -> None:
        self._channel = channel
        self._inner = inner
        self._wrapper = wrapper
        self._metrics = metrics

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        """Starts the call.

        Args:
            request: The message, or an iterator of messages.
            timeout: Seconds; never longer than the call we are inside of has left. If left
                out, that, or `GRPC_CLIENT_TIMEOUT_SECONDS` outside of any call.
            metadata: Sent besides the client's own.
            **options: As in grpc.aio.

        Raises:
            GrpcCallError: `UNAVAILABLE` while the circuit is open; `DEADLINE_EXCEEDED` if the
                call we are inside of has no time left.
        """
        channel = self._channel
        timeout = _deadline(timeout, channel.timeout)
        if timeout <= 0:
            raise _never_sent(
                grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline of the enclosing call has passed"
            )
        wait = channel.breaker.seconds_to_wait()
        if wait is not None:
            raise _never_sent(
                grpc.StatusCode.UNAVAILABLE,
                f"Circuit open for {channel.target}: it failed too often; next try in {wait:.1f} s",
            )
        own = channel.metadata()
        call = self._inner(
            request,
            timeout=timeout,
            metadata=_joined(own, metadata) if metadata else own,
            **options,
        )
        return self._wrapper(call, channel.breaker, self._metrics)


def _joined(own: MetadataPairs, given: MetadataPairs) -> MetadataPairs:
    """Ours and the caller's; where both name a key, the caller's."""
    named = {key for key, _ in given}
    return [*(pair for pair in own if pair[0] not in named), *given]


def _deadline(timeout: float | None, default: float) -> float:
    context = current_or_none()
    left = context.time_remaining() if context is not None else None
    if left is None:
        return default if timeout is None else timeout
    return left if timeout is None else min(left, timeout)


def _never_sent(code: grpc.StatusCode, message: str) -> GrpcCallError:
    empty = grpc.aio.Metadata()
    return GrpcCallError(grpc.aio.AioRpcError(code, empty, empty, message))


class _Call:
    """A call under way; what is not here is the transport's call's own."""

    def __init__(self, call: Any, breaker: CircuitBreaker, metrics: MethodMetrics | None) -> None:
        self._call = call
        self._breaker = breaker
        self._metrics = metrics
        self._started = time.perf_counter()
        self._ended = False
        if metrics is not None:
            metrics.started()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def _end(self, code: grpc.StatusCode) -> None:
        if self._ended:
            return
        self._ended = True
        self._breaker.record(code)
        if self._metrics is not None:
            self._metrics.ended(code, time.perf_counter() - self._started)

    def _failed(self, error: grpc.aio.AioRpcError) -> GrpcCallError:
        self._end(error.code())
        return GrpcCallError(error)

    async def write(self, message: Any) -> None:
        """Sends a message."""
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        if self._metrics is not None:
            self._metrics.sent()

    async def done_writing(self) -> None:
        """Says that no more messages come."""
        await self._call.done_writing()


class UnaryCall(_Call):
    """A call with one response: await it."""

    def __init__(self, call: Any, breaker: CircuitBreaker, metrics: MethodMetrics | None) -> None:
        super().__init__(call, breaker, metrics)
        call.add_done_callback(self._done)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            response = yield from self._call.__await__()
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            self._end(grpc.StatusCode.CANCELLED)
            raise
        self._end(grpc.StatusCode.OK)
        if self._metrics is not None:
            self._metrics.received()
        return response

    def _done(self, call: Any) -> None:
        # A cancelled call may have nobody left who awaits it.
        if call.cancelled():
            self._end(grpc.StatusCode.CANCELLED)


class StreamCall(_Call):
    """A call with a stream of responses: iterate over it, or `read()`."""

    def __init__(self, call: Any, breaker: CircuitBreaker, metrics: MethodMetrics | None) -> None:
        super().__init__(call, breaker, metrics)
        self._messages: AsyncIterator[Any] | None = None
        call.add_done_callback(self._done)

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._iterate()
        return self._messages

    async def _iterate(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                if self._metrics is not None:
                    self._metrics.received()
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        if self._metrics is not None and message is not grpc.aio.EOF:
            self._metrics.received()
        return message

    def _done(self, call: Any) -> None:
        if not self._ended:
            task = asyncio.ensure_future(self._end_with_code(call))
            _ending.add(task)
            task.add_done_callback(_ending.discard)

    async def _end_with_code(self, call: Any) -> None:
        self._end(await call.code())


_ending: set[asyncio.Future[None]] = set()


def outgoing_metadata(
    user_id: str, token: str, extra: MetadataPairs, inject: Callable[[list[Any]], None] | None
) -> MetadataSource:
    """The metadata of a client: fixed pairs, and what the call we are inside of adds."""
    fixed = list(extra)
    if token:
        fixed.append(("authorization", f"Bearer {token}"))

    def pairs() -> MetadataPairs:
        context = current_or_none()
        forwarded = user_id or (context.user_id if context is not None else "")
        correlation_id = context.correlation_id if context is not None else ""
        sent = [("correlation-id", correlation_id or uuid.uuid4().hex), *fixed]
        if forwarded:
            sent.append(("user-id", forwarded))
        if inject is not None:
            inject(sent)
        return sent

    return pairs
