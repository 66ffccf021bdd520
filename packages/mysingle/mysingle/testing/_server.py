"""A real server for a test: free port, whole chain, gone when the test is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.grpc.interceptors import Interceptor
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig

__all__ = ["connect", "run_server", "server_of"]

ServerT = TypeVar("ServerT", bound=BaseGrpcServer)


def server_of(register: Callable[[Any], None]) -> type[BaseGrpcServer]:
    """A server class out of one function that registers servicers."""

    class TestServer(BaseGrpcServer):
        def register_servicers(self, server: Any) -> None:
            register(server)

    return TestServer


@asynccontextmanager
async def run_server(
    server_class: type[ServerT],
    settings: CommonSettings | None = None,
    *,
    interceptors: Sequence[Interceptor | grpc.aio.ServerInterceptor] = (),
    **overrides: Any,
) -> AsyncIterator[ServerT]:
    """Runs a server on a free port of the loopback, with the standard chain on.

    Args:
        server_class: Your server.
        settings: Its settings; by default `settings_class` in the `test` environment, with
            `.env` files left aside.
        interceptors: As in `GrpcServerConfig.from_settings`.
        **overrides: Likewise; `port` and `host` may be among them.
    """
    if settings is None:
        settings = server_class.settings_class(_env_file=None, ENVIRONMENT="test")
    config = GrpcServerConfig.from_settings(
        settings,
        interceptors=interceptors,
        **{"port": 0, "host": "127.0.0.1", "grace_seconds": 5.0, **overrides},
    )
    server = server_class(config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def connect(
    server: BaseGrpcServer, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A plain grpc.aio channel to a running server, not shared with any other test.

    Args:
        server: A started server.
        credentials: For a server with TLS.
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.aio.insecure_channel(server.address, options=options)
    return grpc.aio.secure_channel(server.address, credentials, options=options)
