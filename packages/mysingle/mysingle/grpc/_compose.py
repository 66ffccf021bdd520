"""Wraps a servicer's handler in the chain, once, when the server starts.

Whatever its shape and style, a handler becomes one that takes bytes and gives bytes: an engine
moves those and knows nothing of messages. Unary and streaming are told apart here and nowhere
else.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
import grpc.aio

from mysingle.core import context as request_context
from mysingle.grpc._codec import decoder, encoder, same
from mysingle.grpc._context import Aborted, CallContext, Transport
from mysingle.grpc._errors import GrpcCallError, GrpcError
from mysingle.grpc._foreign import through_foreign
from mysingle.grpc._method import Method, behaviour_of
from mysingle.grpc._outcome import Outcome
from mysingle.grpc._threads import iterate_in_thread, run_in_thread
from mysingle.grpc.interceptors._base import Interceptor
from mysingle.grpc.interceptors.errors import ErrorHandlingInterceptor

__all__ = ["compose"]

_log = logging.getLogger("mysingle.grpc")

Servicer = Callable[[Any, CallContext], Any]
"""Takes the request message (or the stream of them) and the call. Gives an awaitable of the
answer for a unary response; an async iterator, or an awaitable where it writes itself, for a
stream."""
Work = Callable[[CallContext, Any], Awaitable[Any]]


def compose(
    method: Method,
    handler: grpc.RpcMethodHandler[Any, Any],
    steps: Sequence[Interceptor],
    foreign: Sequence[grpc.aio.ServerInterceptor],
    pool: Executor | None,
    max_send: int,
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same shape, bytes in and bytes out, with the chain around the servicer.

    Args:
        method: What is served.
        handler: What generated code registered for it.
        steps: The chain, outermost first.
        foreign: Interceptors of grpcio's own kind; they run inside the chain.
        pool: Where plain `def` servicers run; None for the event loop's default pool.
        max_send: Bytes of a response at most.
    """

    def servicer_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Servicer:
        return _as_async(behaviour_of(handler), handler)

    if foreign:
        servicer = through_foreign(method, handler, foreign, servicer_of, max_send)
        decode: Callable[[bytes], Any] = same
        encode: Callable[[Any], bytes] = same
    else:
        servicer = servicer_of(handler)
        decode = decoder(method, handler.request_deserializer)
        encode = encoder(method, handler.response_serializer, max_send)

    if method.response_streaming:
        work = _streaming_work(method, servicer)
    else:
        work = _unary_work(method, servicer)
    drive = _driver([one for step in steps if (one := step.for_method(method)) is not None])

    async def serve(raw: Any, transport: Transport) -> Any:
        return await drive(CallContext(method, transport, decode, encode, pool), work, raw)

    return _handler_of_shape(method, serve)


def _handler_of_shape(method: Method, serve: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.request_streaming, method.response_streaming]
    return make(serve)


# -- The servicer -------------------------------------------------------------------------------


def _as_async(function: Callable[..., Any], handler: grpc.RpcMethodHandler[Any, Any]) -> Servicer:
    """The servicer's function; where it is a plain `def`, one that runs it in the pool."""
    if _is_async(function):
        return function
    if handler.response_streaming:
        return lambda request, call: iterate_in_thread(function, request, call)

    async def run(request: Any, call: CallContext) -> Any:
        answer = await run_in_thread(function, request, call)
        return await answer if inspect.isawaitable(answer) else answer

    return run


def _is_async(function: Any) -> bool:
    # A function, an object that is called like one, or a functools.partial of one.
    candidates = (function, type(function).__call__, getattr(function, "func", None))
    return any(
        inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in candidates
    )


def _unary_work(method: Method, servicer: Servicer) -> Work:
    if method.request_streaming:

        async def answer_stream(call: CallContext, _raw: Any) -> Any:
            message = await servicer(Requests(call), call)
            return b"" if call.code() not in _NO_ERROR else call.answer(message)

        return answer_stream

    async def answer_one(call: CallContext, raw: Any) -> Any:
        message = await servicer(call.received(raw), call)
        return b"" if call.code() not in _NO_ERROR else call.answer(message)

    return answer_one


_NO_ERROR = (None, grpc.StatusCode.OK)


def _streaming_work(method: Method, servicer: Servicer) -> Work:
    async def stream(call: CallContext, raw: Any) -> None:
        request = Requests(call) if method.request_streaming else call.received(raw)
        results = servicer(request, call)
        if not hasattr(results, "__aiter__"):
            await results  # a coroutine that calls context.write() itself
            return
        try:
            async for message in results:
                await call.write(message)
        finally:
            # At once, not whenever it is collected: its `finally` may hold a lock or a cursor.
            close = getattr(results, "aclose", None)
            if close is not None:
                await close()

    return stream


class Requests(AsyncIterator[Any]):
    """The request stream that a servicer iterates over; `context.read()` reads the same one."""

    __slots__ = ("_call",)

    def __init__(self, call: CallContext) -> None:
        self._call = call

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


# -- The chain ----------------------------------------------------------------------------------


def _driver(
    steps: Sequence[Interceptor],
) -> Callable[[CallContext, Work, Any], Awaitable[Any]]:
    """Runs the steps around one piece of work; the same for all four shapes."""
    befores = tuple(_own(step, "before") for step in steps)
    afters = tuple(after for step in reversed(steps) if (after := _own(step, "after")) is not None)
    total = len(steps)
    mapper = next((step for step in steps if isinstance(step, ErrorHandlingInterceptor)), None)
    set_current = request_context._current.set
    reset_current = request_context._current.reset

    async def drive(call: CallContext, work: Work, raw: Any) -> Any:
        token = set_current(call.request_context)
        entered = 0
        result = None
        cancelled: asyncio.CancelledError | None = None
        try:
            for before in befores:
                if before is not None:
                    pending = before(call)
                    if pending is not None:
                        await pending
                entered += 1
            result = await work(call, raw)
            outcome = call.servicer_outcome
        except Aborted as error:
            outcome = error.outcome
        except asyncio.CancelledError as error:
            cancelled = error
            call.is_cancelled = True
            outcome = Outcome(_code_of_cancellation(call), error=error)
        except Exception as error:
            # The first status stands, as in grpcio, whatever was made of the exception of abort.
            outcome = call.aborted or _outcome_of(error)
        call.request_context.deadline = None  # tasks that go on after the call are not bound by it
        try:
            if entered == total:
                for after in afters:
                    try:
                        outcome = after(call, outcome) or outcome
                    except Exception:
                        _log.exception("%s failed", after.__qualname__)
            else:
                if mapper is not None:  # what a step did not mean to raise stays inside, too
                    outcome = mapper.after(call, outcome) or outcome
                outcome = _leave_refused(steps, entered, call, outcome)
        finally:
            reset_current(token)
        if cancelled is not None and _was_asked_for():
            raise cancelled
        await call.finish(outcome)
        return result

    return drive


def _was_asked_for() -> bool:
    """Whether somebody cancelled this task.

    Otherwise the servicer ended with a CancelledError of its own making, such as that of an
    inner task that it awaited, and the caller still waits for a status.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _own(step: Interceptor, name: str) -> Callable[..., Any] | None:
    """The step's method, or None where it is the empty one of the base class."""
    if getattr(type(step), name, None) is getattr(Interceptor, name):
        return None
    return getattr(step, name)  # type: ignore[no-any-return]  # getattr gives Any


def _leave_refused(
    steps: Sequence[Interceptor], entered: int, call: CallContext, outcome: Outcome
) -> Outcome:
    """Tells the steps that a call was refused: those it never reached, then those it passed."""
    for step in steps[entered + 1 :]:
        try:
            step.refused(call, outcome)
        except Exception:
            _log.exception("%s.refused failed", type(step).__name__)
    for step in reversed(steps[:entered]):
        try:
            outcome = step.after(call, outcome) or outcome
        except Exception:
            _log.exception("%s.after failed", type(step).__name__)
    return outcome


def _outcome_of(error: Exception) -> Outcome:
    """The outcome as grpcio has it, for where no step maps exceptions to statuses."""
    if isinstance(error, GrpcError) and not isinstance(error, GrpcCallError):
        return Outcome.of_error(error)
    return Outcome(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}", error=error)


def _code_of_cancellation(call: CallContext) -> grpc.StatusCode:
    """Whether the caller's deadline passed or the caller went away.

    A client whose deadline passes resets the stream, which can arrive a moment before our own
    clock says so: its clock began to run before the call arrived here. A quarter of the whole
    deadline, at most 100 ms, is taken for that moment.
    """
    remaining = call.time_remaining()
    if remaining is None:
        return grpc.StatusCode.CANCELLED
    whole = remaining + time.perf_counter() - call.started
    if remaining <= min(0.1, whole / 4):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED
