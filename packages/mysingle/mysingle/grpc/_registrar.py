"""What `register_servicers` is given in place of a server: it collects handlers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc

from mysingle.core.errors import ConfigError
from mysingle.grpc._method import Method, behaviour_of

__all__ = ["Registrar"]


class Registrar:
    """Has the two methods that generated `add_…_to_server` functions call, and no others.

    Attributes:
        methods: Every method registered by name, with its handler.
        generic: Handlers that decide at each call which methods they serve.
    """

    def __init__(self) -> None:
        self.methods: dict[Method, grpc.RpcMethodHandler[Any, Any]] = {}
        self.generic: list[grpc.GenericRpcHandler] = []
        self._services: dict[str, None] = {}

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Takes the methods of one service.

        Raises:
            ConfigError: A method cannot be served as it is; the text names it and says why.
        """
        if any(method.service == service_name for method in self.methods):
            raise ConfigError(f"{service_name} is registered twice; a server serves it once")
        self._services[service_name] = None
        for name, handler in method_handlers.items():
            method = Method.of(f"/{service_name}/{name}", handler)
            _check_cached(method, handler)
            self.methods[method] = handler

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        """Takes handlers that are asked at each call.

        Generated code registers each service both ways; a service whose methods are known by
        name is not taken a second time.
        """
        for handler in generic_rpc_handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self._services[handler.service_name()] = None
            self.generic.append(handler)

    def servicers(self) -> list[Any]:
        """The objects whose methods were registered, each once."""
        found: dict[int, Any] = {}
        for handler in self.methods.values():
            servicer = getattr(behaviour_of(handler), "__self__", None)
            if servicer is not None:
                found[id(servicer)] = servicer
        return list(found.values())

    @property
    def service_names(self) -> list[str]:
        """Services in the order they were registered."""
        return list(self._services)

    def __iter__(self) -> Iterator[tuple[Method, grpc.RpcMethodHandler[Any, Any]]]:
        return iter(self.methods.items())


def _check_cached(method: Method, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
    function = behaviour_of(handler)
    if not getattr(function, "__grpc_cached__", False):
        return
    if method.request_streaming or method.response_streaming:
        raise ConfigError(f"{method.full_name} is a streaming method; @grpc_cached is for unary")
    servicer = getattr(function, "__self__", None)
    if servicer is not None and getattr(servicer, "_grpc_cache", None) is None:
        raise ConfigError(
            f"{type(servicer).__name__}.{method.name} is @grpc_cached, so its __init__ must set "
            "self._grpc_cache = GrpcCache.from_settings(settings, service_name=...)"
        )
