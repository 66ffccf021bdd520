"""A service in every call shape and style; requests say what shall happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.context import current
from mysingle.grpc.errors import GrpcError

SERVICE = "test.Echo"
SHAPES = ("Unary", "ServerStream", "ClientStream", "Bidi")
SYNC_SHAPES = tuple(f"Sync{shape}" for shape in SHAPES)


class Echo:
    """The servicer; `entered` and `ended` tell a test where a call is."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.release = asyncio.Event()

    async def _act(self, what: str, context: Any) -> str:
        """Does what the message asks for; gives the text to answer."""
        self.calls += 1
        match what.split(":", 1):
            case ["raise", name]:
                raise {**_ERRORS}[name]
            case ["abort", _]:
                await context.abort(grpc.StatusCode.NOT_FOUND, "aborted", (("why", "test"),))
            case ["swallow", _]:
                try:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "aborted")
                except Exception:  # noqa: BLE001, S110  # the misuse that is tested
                    pass
            case ["code", _]:
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("lost")
            case ["rich", _]:
                raise GrpcError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "not now",
                    violations={"value": "wrong"},
                    reason="TOO_EARLY",
                    retry_after=1.5,
                )
            case ["trailing", _]:
                context.set_trailing_metadata((("mine", "1"), ("data-bin", b"\x00\xff")))
            case ["hang", _]:
                try:
                    self.entered.set()
                    await asyncio.Event().wait()
                finally:
                    self.ended.put_nowait("hang")
            case ["wait", _]:
                self.entered.set()
                await self.release.wait()
            case ["who", _]:
                return f"{current().user_id}/{current().correlation_id}"
        return what

    async def Unary(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=await self._act(request.value, context))

    async def ServerStream(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            yield StringValue(value="first")
            yield StringValue(value=await self._act(request.value, context))
        finally:
            self.ended.put_nowait("stream")

    async def ClientStream(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        texts = [await self._act(request.value, context) async for request in requests]
        return StringValue(value=",".join(texts))

    async def Bidi(
        self, requests: AsyncIterator[StringValue], context: Any
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=await self._act(request.value, context))

    async def WriteStream(self, request: StringValue, context: Any) -> None:
        for part in ("first", await self._act(request.value, context)):
            await context.write(StringValue(value=part))

    async def ReadWrite(self, _requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(StringValue(value=await self._act(request.value, context)))

    def _act_now(self, what: str, context: Any) -> str:
        match what.split(":", 1):
            case ["raise", name]:
                raise {**_ERRORS}[name]
            case ["abort", _]:
                context.abort(grpc.StatusCode.NOT_FOUND, "aborted", (("why", "test"),))
            case ["code", _]:
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("lost")
            case ["rich", _]:
                raise GrpcError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "not now",
                    violations={"value": "wrong"},
                    reason="TOO_EARLY",
                    retry_after=1.5,
                )
            case ["trailing", _]:
                context.set_trailing_metadata((("mine", "1"), ("data-bin", b"\x00\xff")))
            case ["who", _]:
                return f"{current().user_id}/{current().correlation_id}"
        return what

    def SyncUnary(self, request: StringValue, context: Any) -> StringValue:
        return StringValue(value=self._act_now(request.value, context))

    def SyncServerStream(self, request: StringValue, context: Any) -> Iterator[StringValue]:
        yield StringValue(value="first")
        yield StringValue(value=self._act_now(request.value, context))

    def SyncClientStream(self, requests: Iterator[StringValue], context: Any) -> StringValue:
        return StringValue(value=",".join(self._act_now(r.value, context) for r in requests))

    def SyncBidi(self, requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
        for request in requests:
            yield StringValue(value=self._act_now(request.value, context))


class Odd(ValueError):
    """A subclass, which maps like its base."""


_ERRORS: dict[str, Exception] = {
    "value": ValueError("bad value"),
    "odd": Odd("odd value"),
    "permission": PermissionError("not yours"),
    "file": FileNotFoundError("no such thing"),
    "timeout": TimeoutError("too slow"),
    "type": TypeError("bad type"),
    "key": KeyError("missing"),
    "unimplemented": NotImplementedError("not yet"),
    "secret": RuntimeError("password=hunter2"),
}

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def shape_of(name: str) -> tuple[bool, bool]:
    """Whether the request and the response of the method are streams."""
    return (
        name.endswith(("ClientStream", "Bidi", "ReadWrite")),
        name.endswith(("ServerStream", "WriteStream", "Bidi", "ReadWrite")),
    )


def add_echo_to_server(servicer: Echo, server: Any) -> None:
    """What generated code would be."""
    names = [name for name in dir(servicer) if name[0].isupper()]
    handlers = {
        name: _MAKERS[shape_of(name)](
            getattr(servicer, name),
            request_deserializer=StringValue.FromString,
            response_serializer=StringValue.SerializeToString,
        )
        for name in names
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoClient:
    """Calls any method with one text and gives the texts of the answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def call(self, name: str, *texts: str, **options: Any) -> Any:
        """The call object, whatever its shape."""
        request_stream, response_stream = shape_of(name)
        kind = f"{_word(request_stream)}_{_word(response_stream)}"
        method = getattr(self.channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        messages = [StringValue(value=text) for text in texts]
        return method(iter(messages) if request_stream else messages[0], **options)

    async def texts(self, name: str, *texts: str, **options: Any) -> list[str]:
        """What the method answers."""
        call = self.call(name, *texts, **options)
        if shape_of(name)[1]:
            return [message.value async for message in call]
        return [(await call).value]

    async def error(self, name: str, *texts: str, **options: Any) -> grpc.aio.AioRpcError:
        """How the method fails."""
        try:
            answer = await self.texts(name, *texts, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{name} answered {answer}")


def _word(streaming: bool) -> str:
    return "stream" if streaming else "unary"
