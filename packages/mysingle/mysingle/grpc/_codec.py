"""Messages to bytes and back, with the blame where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from mysingle.grpc._errors import GrpcError
from mysingle.grpc._method import Method

__all__ = ["ServicerFault", "decoder", "encoder", "same"]


class ServicerFault(RuntimeError):
    """A servicer returned something that its method cannot send."""


def same(message: Any) -> Any:
    """The message as it is: bytes where a handler has no (de)serializer."""
    return message


def decoder(method: Method, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Parses requests; bytes that do not parse are the caller's fault: `INVALID_ARGUMENT`."""
    if deserialize is None:
        return same

    def decode(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except Exception as error:
            raise GrpcError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The request of {method.full_name} cannot be parsed",
            ) from error

    return decode


def encoder(
    method: Method, serialize: Callable[[Any], bytes] | None, limit: int
) -> Callable[[Any], bytes]:
    """Serializes responses; what does not serialize is the servicer's fault.

    What is larger than `limit` bytes is refused here: in the engine nobody would hear of it but
    the caller, and metrics would say that all was well.
    """

    def encode(message: Any) -> bytes:
        try:
            raw: bytes = message if serialize is None else serialize(message)
            size = len(raw)
        except Exception as error:
            # Not as it is: a TypeError here is no fault of the caller.
            raise ServicerFault(
                f"{method.full_name} cannot send a {type(message).__name__}"
            ) from error
        if size > limit:
            raise GrpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The response is larger than the {limit} bytes that this server sends",
            )
        return raw

    return encode
