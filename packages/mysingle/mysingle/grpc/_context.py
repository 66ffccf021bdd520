"""The context of one call: what servicers see as `context` and interceptors as `call`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio

from mysingle.core.context import RequestContext
from mysingle.grpc._errors import Metadata
from mysingle.grpc._method import Method
from mysingle.grpc._outcome import OK, Outcome

__all__ = ["Aborted", "CallContext", "Transport"]

MetadataIn = Iterable[tuple[str, str | bytes]]
MetadataPairs = tuple[tuple[str, str | bytes], ...]


class Transport(Protocol):
    """What an engine gives the chain for one call: bytes, metadata and a status.

    It is the part of `grpc.aio.ServicerContext` that needs the wire; a context of grpc.aio is
    one as it stands.
    """

    async def read(self) -> Any: ...
    async def write(self, message: Any) -> None: ...
    async def send_initial_metadata(self, initial_metadata: Any) -> None: ...
    async def abort(
        self, code: Any, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn: ...
    def set_trailing_metadata(self, trailing_metadata: Any) -> None: ...
    def invocation_metadata(self) -> Any: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_compression(self, compression: grpc.Compression) -> None: ...
    def disable_next_message_compression(self) -> None: ...
    def peer(self) -> str: ...
    def peer_identities(self) -> Iterable[bytes] | None: ...
    def peer_identity_key(self) -> str | None: ...
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...
    def time_remaining(self) -> float | None: ...
    def add_done_callback(self, callback: Callable[[Any], None]) -> None: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...


class Aborted(grpc.aio.AbortError):
    """Raised by `context.abort()`; carries the status to the end of the chain."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.code.name}: {outcome.message}")
        self.outcome = outcome


_MAX_MESSAGE = 2048
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _code_of(code: Any) -> grpc.StatusCode:
    """The code, which grpc.aio takes as a number too."""
    return (
        code if isinstance(code, grpc.StatusCode) else _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    )


def _peer_gone(error: Exception) -> BaseException:
    """A failed read or write means that the call is over, which is no error of the servicer."""
    return error if isinstance(error, grpc.aio.UsageError) else asyncio.CancelledError(str(error))


class CallContext(grpc.aio.ServicerContext[Any, Any]):
    """One call on its way through the chain.

    To a servicer it behaves as `grpc.aio.ServicerContext` does, on every engine. Interceptors
    use the attributes besides.

    Attributes:
        method: Which method is called.
        request_context: Identity, correlation and deadline; loggers and clients inside the
            call read the same object through `mysingle.core.context`.
        is_cancelled: Whether the caller went away or its deadline passed.
        request: The request message once it was parsed; None before, and for request streams.
        started: `time.perf_counter()` when the call came in.
        pool: Where plain `def` servicers run; None for the event loop's default pool.
    """

    # What few calls change stands on the class, so that a call has less to set.
    request: Any = None
    is_cancelled: bool = False
    _pairs: Any = None
    _metadata: dict[str, str | bytes] | None = None
    _own_trailing: MetadataPairs = ()
    _trailing: MetadataPairs = ()
    _initial: MetadataPairs = ()
    _initial_sent: bool = False
    _code: Any = None
    _details: str = ""
    _aborted: Outcome | None = None
    _on_received: Callable[[], None] | None = None
    _on_sent: Callable[[], None] | None = None

    def __init__(
        self,
        method: Method,
        transport: Transport,
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
        pool: Executor | None = None,
    ) -> None:
        self.method = method
        self.pool = pool
        self.request_context = RequestContext(method=method.full_name)
        self.started = time.perf_counter()
        remaining = transport.time_remaining()
        if remaining is not None:
            self.request_context.deadline = time.monotonic() + remaining
        self._transport = transport
        self._decode = decode
        self._encode = encode

    # -- For interceptors -----------------------------------------------------------------

    @property
    def metadata(self) -> Mapping[str, str | bytes]:
        """What the caller sent, by lower-case key; the first value of each key."""
        if self._metadata is None:
            # From the last to the first, so that of each key the first value stays.
            self._metadata = dict(self.invocation_metadata()[::-1])
        return self._metadata

    @property
    def user_id(self) -> str:
        """Who calls; empty where nobody was authenticated."""
        return self.request_context.user_id

    @property
    def correlation_id(self) -> str:
        """The id that ties this call to its log lines and to the calls it makes."""
        return self.request_context.correlation_id

    def text(self, key: str) -> str:
        """The caller's metadata under `key`; empty if it is missing or binary."""
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    def add_trailing(self, *pairs: tuple[str, str | bytes]) -> None:
        """Sends these with the status, whatever trailing metadata the servicer sets."""
        self._own_trailing += pairs

    def add_initial(self, *pairs: tuple[str, str | bytes]) -> None:
        """Sends these with the initial metadata, where a stream or the servicer sends any."""
        self._initial += pairs

    def on_messages(
        self, received: Callable[[], None] | None, sent: Callable[[], None] | None
    ) -> None:
        """Calls `received` and `sent` for each message that passes."""
        self._on_received = received
        self._on_sent = sent

    # -- For servicers: what grpc.aio.ServicerContext has -----------------------------------

    async def read(self) -> Any:
        """The next request message, or `grpc.aio.EOF`."""
        self._raise_if_aborted()
        try:
            raw = await self._transport.read()
        except grpc.aio.BaseError as error:
            raise _peer_gone(error) from error
        if raw is grpc.aio.EOF:
            return raw
        if self._on_received is not None:
            self._on_received()
        return self._decode(raw)

    async def write(self, message: Any) -> None:
        """Sends one response message; waits while the peer reads too slowly."""
        self._raise_if_aborted()
        raw = self._encode(message)
        if not self._initial_sent and self._initial:
            await self.send_initial_metadata(())
        try:
            await self._transport.write(raw)
        except grpc.aio.BaseError as error:
            raise _peer_gone(error) from error
        if self._on_sent is not None:
            self._on_sent()

    async def send_initial_metadata(self, initial_metadata: MetadataIn) -> None:
        """Sends the initial metadata now, ours among it."""
        self._raise_if_aborted()
        await self._transport.send_initial_metadata((*tuple(initial_metadata), *self._initial))
        self._initial_sent = True

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> NoReturn:
        """Ends the call with this status; never returns.

        An OK code is an error of the servicer and becomes `UNKNOWN`, as in grpcio.
        """
        self.abort_now(code, details, trailing_metadata)

    def abort_now(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Any = (),
    ) -> NoReturn:
        """What `abort` does, for code that cannot await."""
        if self._aborted is not None:
            raise grpc.aio.UsageError("Abort already called!")
        code = _code_of(code)
        if code is grpc.StatusCode.OK:
            code = grpc.StatusCode.UNKNOWN
        self._aborted = Outcome(
            code, details or self._details, tuple(trailing_metadata) or self._trailing
        )
        raise Aborted(self._aborted)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with `status`; never returns."""
        await self.abort(status.code, status.details or "", status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: MetadataIn) -> None:
        """Metadata to send with the status."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]  # a tuple, as in grpc.aio
        """What `set_trailing_metadata` was given."""
        return self._trailing

    def invocation_metadata(self) -> Any:
        """What the caller sent, in its order."""
        if self._pairs is None:  # grpcio would make the tuple anew each time
            self._pairs = self._transport.invocation_metadata()
        return self._pairs

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status code to end with if the servicer returns."""
        self._code = _code_of(code)

    def set_details(self, details: str) -> None:
        """The status message to end with if the servicer returns."""
        self._details = details

    def code(self) -> Any:
        """What `set_code` was given, or the code of an abort; None if neither."""
        return self._aborted.code if self._aborted is not None else self._code

    def details(self) -> str:
        """What `set_details` was given, or the message of an abort."""
        return self._aborted.message if self._aborted is not None else self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compresses the answers of this call so."""
        self._transport.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Sends the next message uncompressed."""
        self._transport.disable_next_message_compression()

    def peer(self) -> str:
        """The peer's address, such as `ipv4:127.0.0.1:5000`."""
        return self._transport.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """The identities that the peer's certificate proves; None without one."""
        return self._transport.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Which property of the certificate `peer_identities` holds."""
        return self._transport.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the connection's security."""
        return self._transport.auth_context()

    def time_remaining(self) -> float | None:  # type: ignore[override]  # None is for never
        """Seconds until the caller stops waiting; None for never."""
        return self._transport.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback(context)` when the call is over."""
        self._transport.add_done_callback(lambda _transport: callback(self))

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self.is_cancelled or self._transport.cancelled()

    def done(self) -> bool:
        """Whether the status was sent."""
        return self._transport.done()

    # -- For the composer -------------------------------------------------------------------

    @property
    def aborted(self) -> Outcome | None:
        """How the servicer aborted the call; None if it did not."""
        return self._aborted

    @property
    def servicer_outcome(self) -> Outcome:
        """How a servicer that returned wants the call to end."""
        if self._aborted is not None:  # the servicer caught and dropped the exception of abort
            return self._aborted
        if self._code is None or self._code is grpc.StatusCode.OK:
            return OK
        return Outcome(self._code, self._details, self._trailing)

    def use_codec(self, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> None:
        """Parses and serializes the call's messages with these from now on."""
        self._decode = decode
        self._encode = encode

    def received(self, raw: bytes) -> Any:
        """Counts and parses the message of a unary request.

        Raises:
            GrpcError: `INVALID_ARGUMENT`; the bytes are no such message.
        """
        if self._on_received is not None:
            self._on_received()
        return self.parse(raw)

    def parse(self, raw: bytes) -> Any:
        """Parses the message of a unary request, counted before."""
        self.request = self._decode(raw)
        return self.request

    def answer(self, message: Any) -> bytes:
        """Counts and serializes the message of a unary response."""
        raw = self._encode(message)
        if self._on_sent is not None:
            self._on_sent()
        return raw

    async def finish(self, outcome: Outcome) -> None:
        """Puts the trailing metadata in place, or ends the call with an error status.

        Raises:
            grpc.aio.AbortError: The outcome is not OK; the engine expects it.
        """
        if outcome.code is not grpc.StatusCode.OK:
            # Headers have a limit, and beyond it the caller would get another status altogether.
            message = outcome.message[:_MAX_MESSAGE]
            await self._transport.abort(outcome.code, message, self.all_trailing(outcome))
        elif self._own_trailing or self._trailing:
            self._transport.set_trailing_metadata(self.all_trailing(outcome))

    def _raise_if_aborted(self) -> None:
        if self._aborted is not None:
            raise Aborted(self._aborted)

    def all_trailing(self, outcome: Outcome) -> MetadataPairs:
        """The servicer's trailing metadata and ours, as they go out with `outcome`."""
        theirs: Sequence[tuple[str, str | bytes]] = outcome.metadata or self._trailing
        return (*theirs, *self._own_trailing)
