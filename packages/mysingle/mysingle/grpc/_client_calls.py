"""Calls under way: those of the transport, with typed errors, a breaker and metrics.

Each class behaves as the one of the same name in `grpc.aio`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable
from typing import Any

import grpc
import grpc.aio

from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc._errors import GrpcCallError, GrpcError
from mysingle.grpc._metrics import MethodMetrics

__all__ = [
    "CallRecord",
    "Codec",
    "NeverSent",
    "StreamStreamCall",
    "StreamUnaryCall",
    "UnaryStreamCall",
    "UnaryUnaryCall",
    "outgoing",
]


class Codec:
    """Messages to bytes and back.

    grpc.aio sends an empty message instead of one that cannot be written, and gives None
    instead of one that cannot be read. Here either ends the call with `INTERNAL`.
    """

    __slots__ = ("_deserializer", "_serializer")

    def __init__(self, serializer: Any, deserializer: Any) -> None:
        self._serializer = serializer
        self._deserializer = deserializer

    def write(self, message: Any) -> Any:
        """The bytes of a request.

        Raises:
            GrpcCallError: It is no message of the right type.
        """
        if self._serializer is None:
            return message
        try:
            return self._serializer(message)
        except Exception as error:
            text = f"request {type(message).__name__} cannot be serialized: {error}"
            raise _local(GrpcError(grpc.StatusCode.INTERNAL, text)) from error

    def read(self, data: Any) -> Any:
        """The message in the bytes of a response.

        Raises:
            GrpcCallError: They hold none of the right type.
        """
        if self._deserializer is None:
            return data
        try:
            return self._deserializer(data)
        except Exception as error:
            text = f"response cannot be parsed: {error}"
            raise _local(GrpcError(grpc.StatusCode.INTERNAL, text)) from error


class CallRecord:
    """Tells breaker and metrics, once each, how a call went.

    It knows neither the call nor its wrapper, so that a call dropped unfinished is collected.
    """

    __slots__ = (
        "_answered",
        "_breaker",
        "_ended",
        "_started",
        "_ticket",
        "codec",
        "failure",
        "metrics",
    )

    def __init__(
        self, breaker: CircuitBreaker | None, metrics: MethodMetrics | None, codec: Codec
    ) -> None:
        self.codec = codec
        # What went wrong with the caller's own requests, for which the transport only cancels.
        self.failure: Exception | None = None
        self._breaker = breaker
        self._ticket = breaker.ticket if breaker is not None else 0
        self._answered = False
        self._ended = False
        self.metrics = metrics
        if metrics is not None:
            self._started = time.perf_counter()
            metrics.started()

    def received(self) -> None:
        """A message of a stream arrived."""
        if not self._answered:
            self._answered = True
            # Not at the end only: a stream may last for hours.
            if self._breaker is not None:
                self._breaker.record(grpc.StatusCode.OK, self._ticket)
        if self.metrics is not None:
            self.metrics.received()

    def done(self, call: Any) -> None:
        """For `add_done_callback` of the transport's call."""
        if not self._ended:
            self.end(_now(call.code()) or grpc.StatusCode.UNKNOWN)

    def end(self, code: grpc.StatusCode) -> None:
        """The call ended so; only the first time counts."""
        if self._ended:
            return
        self._ended = True
        if self._breaker is not None:
            self._breaker.record(code, self._ticket)
        if self.metrics is not None:
            self.metrics.ended(code, time.perf_counter() - self._started)


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for; None if it had."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    return None


def _local(error: GrpcError) -> GrpcCallError:
    """An error of a call at this end, as if a server had answered it."""
    trailing = grpc.aio.Metadata(*error.trailing_metadata_to_send())
    return GrpcCallError(
        grpc.aio.AioRpcError(error.code(), grpc.aio.Metadata(), trailing, error.details())
    )


def _typed(error: grpc.aio.AioRpcError) -> GrpcCallError:
    return error if isinstance(error, GrpcCallError) else GrpcCallError(error)


class _Call:
    """What calls of all shapes have."""

    def __init__(self, call: Any, record: CallRecord) -> None:
        self._call = call
        self._record = record
        call.add_done_callback(record.done)

    def cancel(self) -> bool:
        """Cancels the call; False if it was over."""
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Whether it was cancelled at this end."""
        return bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it is over."""
        return bool(self._call.done())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        remaining: float | None = self._call.time_remaining()
        return remaining

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Calls `callback` with this call when it is over, at once if it is."""
        self._call.add_done_callback(lambda _call: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent before its answer."""
        metadata: grpc.aio.Metadata = await self._call.initial_metadata()
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server sent with the status."""
        metadata: grpc.aio.Metadata = await self._call.trailing_metadata()
        return metadata

    async def code(self) -> grpc.StatusCode:
        """The status code, once the call is over."""
        code: grpc.StatusCode = await self._call.code()
        return code

    async def details(self) -> str:
        """The status message, once the call is over."""
        details: str = await self._call.details()
        return details

    async def debug_error_string(self) -> str:
        """The transport's own account of a failure."""
        text: str = await self._call.debug_error_string()
        return text

    async def wait_for_connection(self) -> None:
        """Returns when the call has reached a server.

        Raises:
            GrpcCallError: It failed.
        """
        try:
            await self._call.wait_for_connection()
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None

    def __repr__(self) -> str:
        return repr(self._call)


class _Answer(_Call):
    """A call with one response."""

    _message: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._message is not None:  # awaited before
            return self._message
        try:
            response = yield from self._call.__await__()
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None
        except asyncio.CancelledError:
            if self._record.failure is not None:
                raise self._record.failure from None
            raise
        self._message = self._record.codec.read(response)
        if self._record.metrics is not None:
            self._record.metrics.received()
        return self._message


class _Responses(_Call):
    """A call with a stream of responses: iterate over it, or `read()`."""

    _messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._messages is None:
            self._messages = self._call.__aiter__()
        try:
            data = await self._messages.__anext__()
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None
        except asyncio.CancelledError:
            if self._record.failure is not None:
                raise self._record.failure from None
            raise
        return self._message(data)

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`.

        Raises:
            GrpcCallError: The call failed.
        """
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None
        except asyncio.CancelledError:
            if self._record.failure is not None:
                raise self._record.failure from None
            raise
        return data if data is grpc.aio.EOF else self._message(data)

    def _message(self, data: Any) -> Any:
        self._record.received()
        try:
            return self._record.codec.read(data)
        except GrpcCallError:
            self._call.cancel()
            raise

    def __del__(self) -> None:
        # Nobody can read it any more. The transport's call would do this itself, but the
        # callback that it holds keeps it until the garbage collector comes by.
        call = self.__dict__.get("_call")
        if call is not None and not call.done():
            call.cancel()


class _Requests(_Call):
    """A call with a stream of requests: `write()`, or give it an iterator."""

    async def write(self, request: Any) -> None:
        """Sends a message.

        Raises:
            GrpcCallError: The call failed.
        """
        data = self._record.codec.write(request)
        try:
            await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None
        if self._record.metrics is not None:
            self._record.metrics.sent()

    async def done_writing(self) -> None:
        """Says that no more messages come."""
        try:
            await self._call.done_writing()
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from None


class UnaryUnaryCall(_Answer, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response: await it."""


class UnaryStreamCall(_Responses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class StreamUnaryCall(_Requests, _Answer, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response: await it."""


class StreamStreamCall(_Requests, _Responses, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests and one of responses."""


class NeverSent:
    """Stands in for the transport's call where there was no sense in making it.

    As in grpc.aio the caller meets the error where it awaits, reads or writes.
    """

    def __init__(self, error: GrpcError) -> None:
        self._cause = error

    def _error(self) -> GrpcCallError:
        return _local(self._cause)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.__anext__().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        raise self._error()

    async def read(self) -> Any:
        raise self._error()

    async def write(self, request: Any) -> None:
        del request
        raise self._error()

    async def done_writing(self) -> None:
        pass

    async def wait_for_connection(self) -> None:
        raise self._error()

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return 0.0

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*self._cause.trailing_metadata_to_send())

    async def code(self) -> grpc.StatusCode:
        return self._cause.code()

    async def details(self) -> str:
        return self._cause.details()

    async def debug_error_string(self) -> str:
        return f"never sent: {self._cause}"

    def __repr__(self) -> str:
        return f"<call never sent: {self._cause}>"


def outgoing(
    requests: AsyncIterable[Any] | Iterable[Any] | None, record: CallRecord
) -> AsyncIterable[Any] | Iterable[Any] | None:
    """The same requests as bytes, each counted as it is taken to be sent.

    An exception of the iterator, or of a message that cannot be written, is kept: the
    transport cancels the call and does not say why.
    """
    if requests is None:
        return None
    if isinstance(requests, AsyncIterable):
        return _outgoing_async(requests, record)
    return _outgoing(requests, record)


async def _outgoing_async(requests: AsyncIterable[Any], record: CallRecord) -> AsyncIterator[Any]:
    try:
        async for request in requests:
            data = record.codec.write(request)
            if record.metrics is not None:
                record.metrics.sent()
            yield data
    except Exception as error:
        record.failure = error
        raise


def _outgoing(requests: Iterable[Any], record: CallRecord) -> Iterable[Any]:
    try:
        for request in requests:
            data = record.codec.write(request)
            if record.metrics is not None:
                record.metrics.sent()
            yield data
    except Exception as error:
        record.failure = error
        raise
