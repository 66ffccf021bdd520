"""The framework: servers, clients, cache, errors, interceptors.

Names are imported when they are used, so that a client does not load the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mysingle.grpc.cache import GrpcCache, grpc_cached
    from mysingle.grpc.client import BaseGrpcClient
    from mysingle.grpc.errors import GrpcCallError, GrpcError
    from mysingle.grpc.interceptors import Interceptor
    from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig

__all__ = [
    "BaseGrpcClient",
    "BaseGrpcServer",
    "GrpcCache",
    "GrpcCallError",
    "GrpcError",
    "GrpcServerConfig",
    "Interceptor",
    "grpc_cached",
]

_HOMES = {
    "BaseGrpcClient": "client",
    "BaseGrpcServer": "server",
    "GrpcCache": "cache",
    "GrpcCallError": "errors",
    "GrpcError": "errors",
    "GrpcServerConfig": "server",
    "Interceptor": "interceptors",
    "grpc_cached": "cache",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
