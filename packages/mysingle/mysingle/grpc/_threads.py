"""Plain `def` servicers: they run in a pool of threads and get a context that blocks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NoReturn

import grpc
import grpc.aio

from mysingle.grpc._codec import ServicerFault
from mysingle.grpc._context import CallContext, MetadataIn
from mysingle.grpc._errors import Metadata

__all__ = ["SyncContext", "iterate_in_thread", "run_in_thread"]

_DONE = object()


class SyncContext(grpc.ServicerContext):
    """The context that a plain `def` servicer gets: `grpc.ServicerContext` over a call."""

    def __init__(self, call: CallContext, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop

    def wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs `work` on the event loop and blocks this thread until it is done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def is_active(self) -> bool:
        """Whether the caller still waits."""
        return not (self._call.cancelled() or self._call.done())

    def cancel(self) -> bool:
        """Ends the call as cancelled; never returns."""
        self._call.abort_now(grpc.StatusCode.CANCELLED, "Cancelled by the servicer")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls `callback` when the call is over; False if it already is."""
        if not self.is_active():
            return False
        self._loop.call_soon_threadsafe(self._call.add_done_callback, lambda _context: callback())
        return True

    def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with this status; never returns."""
        self._call.abort_now(code, details, trailing_metadata)

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with `status`; never returns."""
        self._call.abort_now(status.code, status.details or "", status.trailing_metadata or ())

    def send_initial_metadata(self, initial_metadata: MetadataIn) -> None:
        """Sends the initial metadata now."""
        self.wait_for(self._call.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: MetadataIn) -> None:
        """Metadata to send with the status."""
        self._call.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]  # a tuple, as set
        """What `set_trailing_metadata` was given."""
        return self._call.trailing_metadata()

    def invocation_metadata(self) -> Any:
        """What the caller sent, in its order."""
        return self._call.invocation_metadata()

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status code to end with if the servicer returns."""
        self._call.set_code(code)

    def set_details(self, details: str) -> None:
        """The status message to end with if the servicer returns."""
        self._call.set_details(details)

    def code(self) -> Any:
        """What `set_code` was given."""
        return self._call.code()

    def details(self) -> str:
        """What `set_details` was given."""
        return self._call.details()

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compresses the answers of this call so."""
        self._call.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Sends the next message uncompressed."""
        self._call.disable_next_message_compression()

    def peer(self) -> str:
        """The peer's address."""
        return self._call.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """The identities that the peer's certificate proves."""
        return self._call.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Which property of the certificate `peer_identities` holds."""
        return self._call.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:  # type: ignore[override]  # stubs err
        """Properties of the connection's security."""
        return self._call.auth_context()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # None is for never
        """Seconds until the caller stops waiting."""
        return self._call.time_remaining()


class _BlockingRequests(Iterator[Any]):
    """The request stream as a plain iterator, read from a thread of the pool."""

    def __init__(self, call: CallContext, context: SyncContext) -> None:
        self._call = call
        self._context = context

    def __next__(self) -> Any:
        message = self._context.wait_for(self._call.read())
        if message is grpc.aio.EOF:
            raise StopIteration
        return message


def _arguments(call: CallContext, request: Any) -> tuple[Any, SyncContext]:
    context = SyncContext(call, asyncio.get_running_loop())
    if call.method.request_streaming:
        return _BlockingRequests(call, context), context
    return request, context


async def run_in_thread(
    function: Callable[[Any, Any], Any], request: Any, call: CallContext
) -> Any:
    """Calls a plain `def` servicer in the pool and returns its answer.

    The thread sees the call's context variables. A cancelled call does not stop the thread,
    which nothing can; `context.is_active()` tells it.
    """
    request, context = _arguments(call, request)
    loop = asyncio.get_running_loop()
    run = contextvars.copy_context().run
    return await loop.run_in_executor(call.pool, run, _guarded, function, request, context)


async def iterate_in_thread(
    function: Callable[[Any, Any], Any], request: Any, call: CallContext
) -> AsyncIterator[Any]:
    """Iterates over what a plain generator servicer yields, each step in the pool."""
    request, context = _arguments(call, request)
    pool = call.pool
    if pool is None:
        raise RuntimeError("a plain generator servicer needs a pool of threads")
    run = contextvars.copy_context().run
    results = await asyncio.wrap_future(pool.submit(run, _begin, function, request, context))
    step: Future[Any] | None = None
    try:
        while True:
            step = pool.submit(run, _next, results)
            message = await asyncio.wrap_future(step)
            if message is _DONE:
                return
            yield message
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            # Not awaited: the call may be cancelled while a step still runs in a thread; then that
            # thread closes the generator after it.
            if step is not None and step.running():
                step.add_done_callback(lambda _step: run(_close, close))
            else:
                try:
                    pool.submit(run, _close, close)
                except RuntimeError:  # the server has stopped, and its pool with it
                    threading.Thread(target=run, args=(_close, close), daemon=True).start()


def _begin(
    function: Callable[[Any, Any], Any], request: Any, context: SyncContext
) -> Iterator[Any]:
    results = _guarded(function, request, context)
    if not isinstance(results, Iterable):  # not the TypeError of iter(): no fault of the caller
        raise ServicerFault(f"{function.__qualname__} gave no messages to iterate over")
    return iter(results)


def _guarded(function: Callable[[Any, Any], Any], request: Any, context: SyncContext) -> Any:
    try:
        return function(request, context)
    except SystemExit as error:  # it would end the event loop, and the server with it
        raise ServicerFault(f"{function.__qualname__} called sys.exit({error.code})") from error


def _next(results: Iterator[Any]) -> Any:
    return next(results, _DONE)


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except ValueError:  # it is just running in another thread, and will be collected after
        pass
