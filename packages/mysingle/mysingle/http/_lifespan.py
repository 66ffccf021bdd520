"""A gRPC server beside an HTTP application, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from mysingle.grpc.server import BaseGrpcServer

__all__ = ["grpc_lifespan"]


def grpc_lifespan(
    make_server: Callable[[], BaseGrpcServer],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What to give to `FastAPI(lifespan=…)` to run a gRPC server as long as the application.

    The running server is `app.state.grpc_server`.

    Args:
        make_server: Gives the server, not started yet.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = make_server()
        await server.start()
        app.state.grpc_server = server
        try:
            yield
        finally:
            await server.stop()

    return lifespan
