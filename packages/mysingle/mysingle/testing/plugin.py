"""Fixtures for pytest: `pytest_plugins = ["mysingle.testing.plugin"]` in your `conftest.py`.

    async def test_add(serve, client_of):
        server = await serve(MathServer)
        client = await client_of(MathClient, server, user_id="alice")
        reply = await client.stub.Add(math_pb2.AddRequest(a=3, b=5))
        assert reply.result == 8

Needs pytest and pytest-asyncio: `pip install mysingle[testing]`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from mysingle.core.config import CommonSettings
from mysingle.database import RedisServer
from mysingle.grpc.client import BaseGrpcClient, close_channels
from mysingle.grpc.server import BaseGrpcServer
from mysingle.testing._server import run_server

__all__ = ["client_of", "redis_server", "redis_url", "serve"]

Serve = Callable[..., Awaitable[Any]]
ClientOf = Callable[..., Awaitable[Any]]


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis of this test's own, which may stop it and start it again."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis for all tests: `REDIS_URL`, else one that is started for them."""
    given = os.environ.get("REDIS_URL")
    if given:
        yield given
        return
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on free ports of the loopback, and stops them after the test.

    `await serve(MyServer, **overrides)` gives the running server. The standard chain is on;
    overrides are those of [run_server][mysingle.testing.run_server].
    """
    async with AsyncExitStack() as running:

        async def start(server_class: type[BaseGrpcServer], **overrides: Any) -> BaseGrpcServer:
            return await running.enter_async_context(run_server(server_class, **overrides))

        yield start


@pytest_asyncio.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Opens clients for running servers, and closes them after the test.

    `await client_of(MyClient, server, user_id="alice")` gives the client; further arguments are
    those of the client, and its settings are the defaults, with `.env` files left aside.
    """
    async with AsyncExitStack() as opened:

        async def connect(
            client_class: type[BaseGrpcClient[Any]], server: BaseGrpcServer, **arguments: Any
        ) -> BaseGrpcClient[Any]:
            arguments.setdefault("settings", CommonSettings(_env_file=None))
            return await opened.enter_async_context(client_class(server.address, **arguments))

        yield connect
    await close_channels()
