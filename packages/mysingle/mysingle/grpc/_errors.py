"""Statuses as Python errors, and rich details to and from the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = "mysingle"
_KNOWN_DETAILS: Final[tuple[type[Message], ...]] = (
    error_details_pb2.BadRequest,
    error_details_pb2.DebugInfo,
    error_details_pb2.ErrorInfo,
    error_details_pb2.Help,
    error_details_pb2.LocalizedMessage,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RequestInfo,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
)

# First match wins, so a subclass stands before its base. FileNotFoundError is an OSError and
# TimeoutError too, which as such are none of the caller's business.
_CODES: Final[tuple[tuple[type[BaseException], grpc.StatusCode], ...]] = (
    (NotImplementedError, grpc.StatusCode.UNIMPLEMENTED),
    (FileNotFoundError, grpc.StatusCode.NOT_FOUND),
    (PermissionError, grpc.StatusCode.PERMISSION_DENIED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (KeyError, grpc.StatusCode.NOT_FOUND),
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
    (TypeError, grpc.StatusCode.INVALID_ARGUMENT),
)

_PASSED_ON: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


def code_of_exception(error: BaseException) -> grpc.StatusCode:
    """The status code that an exception of a servicer becomes.

    `ValueError` and `TypeError` are `INVALID_ARGUMENT`, `PermissionError` is
    `PERMISSION_DENIED`, `FileNotFoundError` and `KeyError` are `NOT_FOUND`, `TimeoutError` is
    `DEADLINE_EXCEEDED`, `NotImplementedError` is `UNIMPLEMENTED`, subclasses as their base,
    a [GrpcError][] is its own code and everything else is `INTERNAL`. The error of a call that
    the servicer made itself keeps its code only where the caller's next step is the same
    whoever is at fault (`UNAVAILABLE`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`).
    """
    if isinstance(error, grpc.RpcError):
        return _code_of_upstream(error)
    if isinstance(error, GrpcError):
        return error.code()
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def _code_of_upstream(error: grpc.RpcError) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else None
    return code if code in _PASSED_ON else grpc.StatusCode.INTERNAL


class GrpcError(Exception):
    """A call that ended, or shall end, with a status other than OK.

    Args:
        code: The status code. OK is not an error and is refused.
        message: For the developer at the other end; it is sent to the caller as it is.
        violations: What is wrong with which field, sent as `BadRequest`.
        reason: A constant such as `SEAT_TAKEN` that programs switch on, sent as `ErrorInfo`.
        domain: Who defines `reason`; `mysingle` if left out.
        info: Facts that go with `reason`, sent in the same `ErrorInfo`.
        retry_after: Seconds after which another try makes sense, sent as `RetryInfo`.
        details: Further messages to send as details.
        metadata: Trailing metadata to send with the status.

    Raises:
        ValueError: `code` is OK.

    Example:
        >>> error = GrpcError(
        ...     grpc.StatusCode.INVALID_ARGUMENT, "bad seat", violations={"seat_id": "unknown"}
        ... )
        >>> error.violations
        {'seat_id': 'unknown'}
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "",
        *,
        violations: Mapping[str, str] | None = None,
        reason: str = "",
        domain: str = _DOMAIN,
        info: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        details: Iterable[Message] = (),
        metadata: Metadata = (),
    ) -> None:
        if code is grpc.StatusCode.OK:
            raise ValueError("a GrpcError needs a status code other than OK")
        super().__init__(code, message)
        self._code: Any = code
        self.message = message
        self.metadata: Metadata = tuple(metadata)
        built: list[Message] = []
        if violations:
            built.append(
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(field=field, description=text)
                        for field, text in violations.items()
                    ]
                )
            )
        if reason or info:
            built.append(ErrorInfo(reason=reason, domain=domain, metadata=dict(info or {})))
        if retry_after is not None:
            fraction, seconds = math.modf(max(0.0, retry_after))
            retry = RetryInfo()
            retry.retry_delay.seconds = int(seconds)
            retry.retry_delay.nanos = int(fraction * 1e9)
            built.append(retry)
        built.extend(details)
        self._messages: tuple[Message, ...] = tuple(built)

    def code(self) -> grpc.StatusCode:
        """The status code; a method, as on every `grpc.RpcError`."""
        code: grpc.StatusCode = self._code
        return code

    def details(self) -> str:
        """The message, under the name that `grpc.RpcError` gives it."""
        return self.message

    @property
    def rich_details(self) -> tuple[Message, ...]:
        """The detail messages, in the order they are sent."""
        return self._messages

    @property
    def violations(self) -> dict[str, str]:
        """What is wrong with which field."""
        return {
            violation.field: violation.description
            for detail in self._messages
            if isinstance(detail, BadRequest)
            for violation in detail.field_violations
        }

    @property
    def reason(self) -> str:
        """The constant that programs switch on; empty if none was sent."""
        return next((d.reason for d in self._messages if isinstance(d, ErrorInfo)), "")

    @property
    def info(self) -> dict[str, str]:
        """The facts that go with `reason`."""
        return next((dict(d.metadata) for d in self._messages if isinstance(d, ErrorInfo)), {})

    @property
    def retry_after(self) -> float | None:
        """Seconds after which another try makes sense; None if the server did not say."""
        for detail in self._messages:
            if isinstance(detail, RetryInfo):
                return float(detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9)
        return None

    def trailing_metadata_to_send(self) -> Metadata:
        """The error's own metadata, and the rich status where there are details."""
        if not self._messages:
            return self.metadata
        status = Status(code=self._code.value[0], message=self.message)
        for detail in self._messages:
            status.details.add().Pack(detail)
        return (*self.metadata, (STATUS_DETAILS_KEY, status.SerializeToString()))

    def __str__(self) -> str:
        return f"{self._code.name}: {self.message}"


class GrpcCallError(GrpcError, grpc.aio.AioRpcError):
    """A call to another server that failed, with what that server said.

    It is a `grpc.aio.AioRpcError`, so code that caught those goes on working. A servicer that
    lets it escape does not pass the other server's words on; see [code_of_exception][].
    """

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        trailing = error.trailing_metadata()
        grpc.aio.AioRpcError.__init__(
            self,
            error.code(),
            error.initial_metadata() or grpc.aio.Metadata(),
            trailing or grpc.aio.Metadata(),
            error.details(),
            error.debug_error_string(),
        )
        code = error.code()
        self.args = (code, error.details() or "")
        self._code = code
        self.message = error.details() or ""
        self.metadata = tuple(trailing or ())
        self._messages = _unpack_details(self.metadata)

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (self._code, self.metadata, self.message))


def _restore(code: grpc.StatusCode, metadata: Metadata, message: str) -> GrpcCallError:
    return GrpcCallError(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), message)
    )


def _unpack_details(metadata: Metadata) -> tuple[Message, ...]:
    """The rich details of a failed call; those of unknown type stay packed as `Any`."""
    for key, value in metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:  # the peer's fault, and no reason to hide its status
                return ()
            return tuple(_unpack(detail) for detail in status.details)
    return ()


def _unpack(packed: AnyMessage) -> Message:
    for kind in _KNOWN_DETAILS:
        message = kind()
        if packed.Unpack(message):
            return message
    return packed
