"""What calls going out carry: who asks, what they belong to, and what is traced."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import grpc
import grpc.aio

from mysingle.core.context import current_or_none
from mysingle.grpc._errors import GrpcError

__all__ = ["MetadataPairs", "OutgoingMetadata"]

MetadataPairs: TypeAlias = Sequence[tuple[str, str | bytes]]

_CORRELATION = frozenset({"correlation-id", "x-correlation-id"})
_REQUEST = frozenset({"request-id", "x-request-id"})
_USER = frozenset({"user-id", "x-user-id"})
_TRACE = frozenset({"traceparent"})


class _Pairs(grpc.aio.Metadata):
    """Metadata as grpc.aio wants it, without the index by key, which no call going out needs.

    grpc.aio only asks whether there is any, and iterates.
    """

    def __init__(self, pairs: list[tuple[str, str | bytes]]) -> None:  # no super(): no index
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


class OutgoingMetadata:
    """The metadata of a client's calls: its own, and what the call it is inside of adds.

    A key given with one call replaces the client's own, and both replace what would be added.

    Args:
        user_id: Sent as `user-id`; that of the enclosing call if empty.
        token: Sent as `authorization: Bearer`.
        extra: Sent with each call.
        tracing: Whether to send `traceparent` inside of an OpenTelemetry span.

    Raises:
        ValueError: A value cannot be sent as metadata.
    """

    def __init__(
        self, user_id: str, token: str, extra: MetadataPairs = (), *, tracing: bool = True
    ) -> None:
        own: list[tuple[str, str | bytes]] = [(key.lower(), value) for key, value in extra]
        if token:
            own.append(("authorization", f"Bearer {token}"))
        if user_id:
            own.append(("user-id", user_id))
        for key, value in own:
            _check(key, value)
        self._own = tuple(own)
        self._names = frozenset(key for key, _ in own)
        self._tracing = tracing

    def of_call(self, extra: Iterable[tuple[str, str | bytes]] | None) -> grpc.aio.Metadata:
        """The metadata of one call.

        Args:
            extra: Given with this call.

        Raises:
            GrpcError: `INTERNAL` if the user id of the enclosing call cannot be sent.
        """
        names = self._names
        pairs: list[tuple[str, str | bytes]] = list(self._own)
        if extra:
            given = [(key.lower(), value) for key, value in extra]
            replaced = {key for key, _ in given}
            pairs = [pair for pair in pairs if pair[0] not in replaced]
            pairs += given
            names = names | replaced
        context = current_or_none()
        if not names & _CORRELATION:
            correlation_id = context.correlation_id if context is not None else ""
            pairs.append(("correlation-id", correlation_id or _new_id()))
        if not names & _REQUEST:
            pairs.append(("request-id", _new_id()))
        if context is not None and context.user_id and not names & _USER:
            user_id = context.user_id
            if not (user_id.isascii() and user_id.isprintable()):
                raise GrpcError(
                    grpc.StatusCode.INTERNAL,
                    "The user id of the enclosing call has characters that metadata cannot "
                    "carry; give the client a token instead",
                )
            pairs.append(("user-id", user_id))
        if self._tracing and "opentelemetry.trace" in sys.modules and not names & _TRACE:
            _add_trace(pairs)
        return _Pairs(pairs)


def _new_id() -> str:
    return os.urandom(16).hex()


def _check(key: str, value: str | bytes) -> None:
    if isinstance(value, bytes):
        if not key.endswith("-bin"):
            raise ValueError(f"metadata {key!r} is bytes, so its name must end with '-bin'")
    elif not (value.isascii() and value.isprintable()):
        # Without the value, which may be a secret.
        raise ValueError(f"metadata {key!r} must be printable ASCII")


def _add_trace(pairs: list[tuple[str, str | bytes]]) -> None:
    """Adds `traceparent` and its kin where a span is active.

    Called only where the program has loaded OpenTelemetry: without it there is no span.
    """
    from opentelemetry import trace

    if trace.get_current_span().get_span_context().is_valid:
        from opentelemetry import propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        pairs.extend(carrier.items())
