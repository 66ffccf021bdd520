"""What is known of an RPC method before anybody calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

__all__ = ["Method", "MethodSet", "behaviour_of"]

_GRPC_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of one service.

    Attributes:
        full_name: As on the wire: `/math.MathService/Add`.
        request_streaming: Whether the client sends a stream.
        response_streaming: Whether the server sends a stream.
        service: `math.MathService`.
        name: `Add`.
        grpc_type: The label of the metrics: `unary`, `client_stream`, `server_stream` or
            `bidi_stream`.
    """

    full_name: str
    request_streaming: bool
    response_streaming: bool
    service: str = field(init=False)
    name: str = field(init=False)
    grpc_type: str = field(init=False)

    def __post_init__(self) -> None:
        service, _, name = self.full_name.removeprefix("/").rpartition("/")
        object.__setattr__(self, "service", service)
        object.__setattr__(self, "name", name)
        shape = _GRPC_TYPES[self.request_streaming, self.response_streaming]
        object.__setattr__(self, "grpc_type", shape)

    @classmethod
    def of(cls, full_name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Method:
        """The method that `handler` serves."""
        return cls(full_name, bool(handler.request_streaming), bool(handler.response_streaming))


def behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    """The servicer's function in a handler, whatever the shape."""
    for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        function = getattr(handler, name)
        if function is not None:
            return function  # type: ignore[no-any-return]  # types-grpcio says Any
    raise TypeError("a method handler without a function")


class MethodSet:
    """Methods given by full name or as `/package.Service/*`.

    Raises:
        ValueError: An entry is neither; the text names it.
    """

    def __init__(self, patterns: list[str] | tuple[str, ...]) -> None:
        self._names: set[str] = set()
        self._services: set[str] = set()
        for pattern in patterns:
            service, slash, name = pattern.removeprefix("/").partition("/")
            if not (pattern.startswith("/") and service and slash and name) or "*" in service:
                raise ValueError(
                    f"{pattern!r} is no method: write /package.Service/Method or /package.Service/*"
                )
            if name == "*":
                self._services.add(service)
            else:
                self._names.add(pattern)

    def __contains__(self, method: object) -> bool:
        return isinstance(method, Method) and (
            method.full_name in self._names or method.service in self._services
        )
