"""The engine that is always there: grpc.aio."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.core.errors import StartError
from mysingle.grpc._tls import server_credentials
from mysingle.grpc.engines._base import HandlerTable

__all__ = ["GrpcioEngine"]

_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class GrpcioEngine:
    """Serves ready handlers with grpc.aio."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._server: grpc.aio.Server | None = None

    async def start(self, handlers: HandlerTable) -> int:
        """Binds and serves; see [Engine][].

        Raises:
            StartError: The address cannot be bound.
            ConfigError: A certificate is missing or unreadable.
        """
        settings = self._settings
        credentials = server_credentials(settings)
        self._server = server = grpc.aio.server(
            options=_options(settings),
            compression=_COMPRESSION[settings.GRPC_COMPRESSION],
        )
        server.add_generic_rpc_handlers((_TableHandler(handlers),))
        address = server_address(settings)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError:
            raise StartError(_cannot_bind(settings, address)) from None
        await server.start()
        return port if settings.GRPC_SERVER_UNIX_SOCKET is None else 0

    async def stop(self, grace: float) -> None:
        """Stops accepting, lets calls finish for `grace` seconds, cancels the rest."""
        if self._server is not None:
            await self._server.stop(grace)

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()


class _TableHandler(grpc.GenericRpcHandler):
    def __init__(self, handlers: HandlerTable) -> None:
        self._find = handlers.find

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._find(handler_call_details)


def server_address(settings: CommonSettings) -> str:
    """Where to listen, in gRPC's notation."""
    if settings.GRPC_SERVER_UNIX_SOCKET is not None:
        return f"unix:{settings.GRPC_SERVER_UNIX_SOCKET}"
    return f"{settings.GRPC_SERVER_HOST}:{settings.GRPC_SERVER_PORT}"


def _cannot_bind(settings: CommonSettings, address: str) -> str:
    if settings.GRPC_SERVER_UNIX_SOCKET is not None:
        return f"cannot listen on {address} (GRPC_SERVER_UNIX_SOCKET)"
    return (
        f"cannot listen on {address}: port {settings.GRPC_SERVER_PORT} is in use or not allowed "
        "(GRPC_SERVER_HOST, GRPC_SERVER_PORT)"
    )


def _options(settings: CommonSettings) -> list[tuple[str, int]]:
    """The settings as channel arguments; names from grpc's `channel_arg_names.h`."""

    def milliseconds(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    options = {
        "grpc.max_receive_message_length": settings.GRPC_MAX_RECEIVE_MESSAGE_BYTES,
        "grpc.max_send_message_length": settings.GRPC_MAX_SEND_MESSAGE_BYTES,
        "grpc.max_metadata_size": settings.GRPC_MAX_METADATA_BYTES,
        "grpc.max_concurrent_streams": settings.GRPC_MAX_CONCURRENT_STREAMS,
        "grpc.keepalive_time_ms": milliseconds(settings.GRPC_KEEPALIVE_TIME_SECONDS),
        "grpc.keepalive_timeout_ms": milliseconds(settings.GRPC_KEEPALIVE_TIMEOUT_SECONDS),
        "grpc.http2.min_ping_interval_without_data_ms": milliseconds(
            settings.GRPC_KEEPALIVE_MIN_CLIENT_INTERVAL_SECONDS
        ),
        "grpc.max_connection_idle_ms": milliseconds(settings.GRPC_MAX_CONNECTION_IDLE_SECONDS),
        "grpc.max_connection_age_ms": milliseconds(settings.GRPC_MAX_CONNECTION_AGE_SECONDS),
        "grpc.max_connection_age_grace_ms": milliseconds(
            settings.GRPC_MAX_CONNECTION_AGE_GRACE_SECONDS
        ),
        # Off unless several processes share the port: with it on, a second server started by
        # mistake would quietly take half of the connections.
        "grpc.so_reuseport": int(settings.GRPC_SERVER_WORKERS > 1),
    }
    return [(name, value) for name, value in options.items() if value is not None]
