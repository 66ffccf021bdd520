"""The sliding window, in one process and over Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo import Echo, EchoClient, add_echo_to_server
from redis.asyncio import Redis

from mysingle.core.errors import ConfigError
from mysingle.database import RedisServer
from mysingle.grpc._rate_window import LocalWindow, RedisWindow
from mysingle.testing import connect, run_server, server_of

ALICE = (("user-id", "alice"),)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def echo_server() -> Any:
    return server_of(lambda server: add_echo_to_server(Echo(), server))


def test_the_window_slides() -> None:
    now = [0.0]
    window = LocalWindow(2, 10, clock=lambda: now[0])
    assert window.hit("a").remaining == 1
    now[0] = 6.0
    assert window.hit("a").allowed
    refused = window.hit("a")
    assert (refused.allowed, refused.reset_seconds) == (False, 4.0)
    assert window.hit("b").allowed
    now[0] = 10.0  # the first request left the window, the second did not
    assert window.hit("a").allowed
    assert not window.hit("a").allowed


def test_the_window_forgets_the_key_unused_longest() -> None:
    window = LocalWindow(1, 10, max_keys=2)
    for key in ("a", "b", "a", "c"):
        window.hit(key)
    assert not window.hit("a").allowed
    assert window.hit("b").allowed


async def test_redis_counts_for_all_at_once(redis: RedisServer) -> None:
    clients = [Redis.from_url(redis.url) for _ in range(4)]
    windows = [RedisWindow(client, 100, 60, prefix="p:") for client in clients]
    verdicts = await asyncio.gather(*(windows[n % 4].hit("a") for n in range(200)))
    assert sum(verdict.allowed for verdict in verdicts) == 100
    assert {verdict.remaining for verdict in verdicts if verdict.allowed} == set(range(100))
    assert all(0 < verdict.reset_seconds <= 60 for verdict in verdicts)
    assert (await windows[0].hit("b")).allowed
    assert 0 < await clients[0].pttl("p:{a}") <= 60_000
    for client in clients:
        await client.aclose()


async def test_two_servers_share_the_limit(redis: RedisServer) -> None:
    settings = {"redis_url": redis.url, "rate_limit_max_requests": 3}
    async with (
        run_server(echo_server(), **settings) as one,
        run_server(echo_server(), **settings) as other,
        connect(one) as to_one,
        connect(other) as to_other,
    ):
        first, second = EchoClient(to_one), EchoClient(to_other)
        call = first.call("Unary", "a", metadata=ALICE)
        await call
        trailing = dict(await call.trailing_metadata())
        assert trailing["x-ratelimit-limit"] == "3"
        assert trailing["x-ratelimit-remaining"] == "2"
        assert trailing["x-ratelimit-reset"] == "60"
        await second.texts("Unary", "a", metadata=ALICE)
        await first.texts("Unary", "a", metadata=ALICE)
        error = await second.error("Unary", "a", metadata=ALICE)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["x-ratelimit-remaining"] == "0"


async def test_redis_away_and_back(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        run_server(echo_server(), redis_url=redis.url, rate_limit_max_requests=3) as server,
        connect(server) as channel,
    ):
        client = EchoClient(channel)
        await client.texts("Unary", "a", metadata=ALICE)
        server._chain[2]._watch.retry_seconds = 0.01
        redis.stop()
        for _ in range(3):  # a window of its own
            await client.texts("Unary", "a", metadata=ALICE)
        assert (await client.error("Unary", "a", metadata=ALICE)).code().name == (
            "RESOURCE_EXHAUSTED"
        )
        redis.start()
        await server._chain[2]._watch.back()
        await client.texts("Unary", "a", metadata=ALICE)
    messages = [record.message for record in caplog.records]
    assert sum("Redis is away" in one for one in messages) == 1
    assert sum("Redis is back" in one for one in messages) == 1


async def test_redis_away_refuses_if_asked_to(redis: RedisServer) -> None:
    settings = {"redis_url": redis.url, "rate_limit_redis_away": "refuse"}
    async with run_server(echo_server(), **settings) as server, connect(server) as channel:
        client = EchoClient(channel)
        await client.texts("Unary", "a", metadata=ALICE)
        redis.stop()
        error = await client.error("Unary", "a", metadata=ALICE)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_peers_are_limited_where_nobody_is_identified() -> None:
    settings = {"enable_auth": False, "rate_limit_max_requests": 2}
    async with run_server(echo_server(), **settings) as server:
        for _ in range(2):  # another connection, the same peer; a header is no identity
            async with connect(server) as channel:
                await EchoClient(channel).texts("Unary", "a", metadata=ALICE)
        async with connect(server) as channel:
            error = await EchoClient(channel).error("Unary", "a")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_redis_must_be_configured_if_asked_for() -> None:
    with pytest.raises(ConfigError, match="GRPC_RATE_LIMIT_BACKEND=redis needs REDIS_URL"):
        async with run_server(echo_server(), rate_limit_backend="redis"):
            pass
