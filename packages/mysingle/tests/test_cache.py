"""The two-tier cache, over a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from mysingle.core.config import CommonSettings
from mysingle.core.context import RequestContext, _current
from mysingle.core.errors import ConfigError
from mysingle.database import RedisServer
from mysingle.grpc._cache_l1 import LocalCache
from mysingle.grpc.cache import GrpcCache, grpc_cached
from mysingle.testing import connect, run_server, server_of


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def settings(redis: RedisServer) -> CommonSettings:
    return CommonSettings(_env_file=None, REDIS_URL=redis.url)


@pytest.fixture
async def pair(settings: CommonSettings) -> AsyncIterator[tuple[GrpcCache, GrpcCache]]:
    """Two caches of one service, as two processes have them."""
    one, other = (GrpcCache.from_settings(settings, service_name="s") for _ in range(2))
    for cache in (one, other):
        await listening(cache)
    yield one, other
    await one.close()
    await other.close()


async def listening(cache: GrpcCache) -> None:
    """Waits for the subscription, which clears the memory tier once when it begins."""
    await cache.get_with_l1("warm-up")
    assert cache._l2 is not None
    await cache._l2.listening.wait()


def request(value: str) -> StringValue:
    return StringValue(value=value)


async def test_both_tiers_answer(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, other = pair
    key = one.make_cache_key(method="Get", request=request("a"))
    assert await one.get_with_l1(key) is None
    await one.set_with_l1(key, request("answer"), ttl=60)
    assert await one.get_with_l1(key) == request("answer")
    assert await other.get_with_l1(key) == request("answer")


async def test_a_caller_cannot_change_what_is_cached(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, _ = pair
    key = one.make_cache_key(method="Get", request=request("a"))
    await one.set_with_l1(key, request("answer"), ttl=60)
    first: Any = await one.get_with_l1(key)
    first.value = "poison"
    assert await one.get_with_l1(key) == request("answer")


def test_keys_are_readable_and_apart(settings: CommonSettings) -> None:
    cache = GrpcCache.from_settings(settings, service_name="s")
    key = cache.make_cache_key(method="GetStrategyVersion", request=request("id-1"))
    assert key == cache.make_cache_key(method="GetStrategyVersion", request=request("id-1"))
    assert key.startswith("GetStrategyVersion|")
    assert "value=id-1" in key
    others = [
        cache.make_cache_key(method="Get", request=one, user_id=user)
        for user in ("", "alice", "alice|value=x", "al*")
        for one in (request("a"), request("a|b"), request("x" * 500), BytesValue(value=b"a"))
    ]
    assert len(set(others)) == len(others)
    assert all(len(one) < 1024 for one in others)
    struct = Struct()
    struct.update({"b": 1, "a": {"c": [1, 2]}})
    again = Struct()
    again.update({"a": {"c": [1, 2]}, "b": 1})
    assert cache.make_cache_key("M", struct) == cache.make_cache_key("M", again)


async def test_users_never_share_unless_asked(settings: CommonSettings) -> None:
    cache = GrpcCache.from_settings(settings, service_name="s")
    keys = {}
    for user in ("alice", "bob"):
        token = _current.set(RequestContext(user_id=user))
        keys[user] = cache.make_cache_key("Get", request("a"))
        keys[user + "-shared"] = cache.make_cache_key("Get", request("a"), shared=True)
        _current.reset(token)
    assert keys["alice"] != keys["bob"]
    assert keys["alice-shared"] == keys["bob-shared"]


async def test_invalidation_reaches_other_processes(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, other = pair
    kept = one.make_cache_key("GetStrategyVersion", request("id-2"))
    gone = one.make_cache_key("GetStrategyVersion", request("id-1"))
    for key in (kept, gone):
        await one.set_with_l1(key, request("answer"), ttl=60)
        assert await other.get_with_l1(key) is not None
    dropped = asyncio.Event()
    before = other._invalidated
    other._l2._on_invalidated = lambda pattern: (before(pattern), dropped.set())  # type: ignore[union-attr]
    assert await one.invalidate_pattern("GetStrategyVersion*id-1*") == 1
    await dropped.wait()
    assert await other.get_with_l1(gone) is None
    assert await other.get_with_l1(kept) is not None


async def test_a_stale_answer_is_not_kept(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, other = pair
    key = one.make_cache_key("Get", request("a"))
    assert await one.get_with_l1(key) is None  # begins to compute
    await other.invalidate_pattern("Get*")  # what it reads has changed meanwhile
    await one.set_with_l1(key, request("stale"), ttl=60)
    assert await one.get_with_l1(key) is None
    await one.set_with_l1(key, request("fresh"), ttl=60)
    assert await other.get_with_l1(key) == request("fresh")


async def test_redis_away_and_back(
    settings: CommonSettings, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = GrpcCache.from_settings(settings, service_name="s")
    key = cache.make_cache_key("Get", request("a"))
    redis.stop()
    assert await cache.get_with_l1(key) is None
    await cache.set_with_l1(key, request("answer"), ttl=60)
    assert await cache.get_with_l1(key) == request("answer")
    await cache.invalidate_pattern("Get*")
    assert await cache.get_with_l1(key) is None
    assert sum("Redis is away" in record.message for record in caplog.records) == 1
    redis.start()
    assert cache._l2 is not None
    cache._l2._away_until = 1e-9  # the pause before the next try is over
    await cache.set_with_l1(key, request("answer"), ttl=60)
    other = GrpcCache.from_settings(settings, service_name="s")
    assert await other.get_with_l1(key) == request("answer")
    await cache.close()
    await other.close()


async def test_without_redis_only_memory() -> None:
    cache = GrpcCache.from_settings(CommonSettings(_env_file=None), service_name="s")
    key = cache.make_cache_key("Get", request("a"))
    await cache.set_with_l1(key, request("answer"))
    assert await cache.get_with_l1(key) == request("answer")
    assert await cache.invalidate_pattern("Get*") == 1
    with pytest.raises(ValueError, match="ttl must be positive"):
        await cache.set_with_l1(key, request("answer"), ttl=0)


def test_memory_drops_the_least_recently_used_and_the_old() -> None:
    now = [0.0]
    cache = LocalCache(2, 10, clock=lambda: now[0])
    cache.set("a", b"1", 100)
    cache.set("b", b"2", 5)
    cache.get("a")
    cache.set("c", b"3", 100)
    assert cache.get("b") is None
    assert cache.get("a") == b"1"
    now[0] = 10.0
    assert cache.get("a") is None
    assert len(cache) == 1


def test_refused_at_import() -> None:
    with pytest.raises(ValueError, match="positive ttl"):
        grpc_cached(ttl=0)
    with pytest.raises(TypeError, match="streams"):

        @grpc_cached(ttl=1)
        async def stream(self: Any, request: Any, context: Any) -> Any:
            yield 1


class Servicer:
    """Counts how often it computes."""

    def __init__(self, settings: CommonSettings) -> None:
        self._grpc_cache = GrpcCache.from_settings(settings, service_name="s")
        self.computed = 0
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    @grpc_cached(ttl=60)
    async def Get(self, request: StringValue, context: Any) -> StringValue:
        self.computed += 1
        self.entered.set()
        if request.value == "wait":
            await self.release.wait()
        if request.value == "fail":
            raise FileNotFoundError("no such thing")
        if request.value == "code":
            context.set_code(grpc.StatusCode.ABORTED)
        return StringValue(value=f"{request.value}{self.computed}")

    @grpc_cached(ttl=60)
    def Plain(self, request: StringValue, context: Any) -> StringValue:
        self.computed += 1
        return StringValue(value=f"{request.value}{self.computed}")


def _add(servicer: Servicer, server: Any) -> None:
    server.add_registered_method_handlers(
        "t.T",
        {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(servicer, name),
                request_deserializer=StringValue.FromString,
                response_serializer=StringValue.SerializeToString,
            )
            for name in ("Get", "Plain")
        },
    )


@pytest.fixture
async def served(settings: CommonSettings) -> AsyncIterator[tuple[Servicer, Any]]:
    servicer = Servicer(settings)
    await listening(servicer._grpc_cache)
    async with (
        run_server(server_of(lambda server: _add(servicer, server))) as server,
        connect(server) as channel,
    ):

        def call(value: str, user: str = "alice", method: str = "Get") -> Any:
            return channel.unary_unary(
                f"/t.T/{method}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
            )(StringValue(value=value), metadata=(("user-id", user),))

        yield servicer, call
    await servicer._grpc_cache.close()


@pytest.mark.parametrize("method", ["Get", "Plain"])
async def test_hits_for_each_user(served: tuple[Servicer, Any], method: str) -> None:
    _, call = served
    assert (await call("a", method=method)).value == "a1"
    assert (await call("a", method=method)).value == "a1"
    assert (await call("a", "bob", method=method)).value == "a2"


@pytest.mark.parametrize("value", ["fail", "code"])
async def test_errors_are_not_kept(served: tuple[Servicer, Any], value: str) -> None:
    servicer, call = served
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(value)
    assert servicer.computed == 2


async def test_one_computation_for_many(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    calls = [asyncio.ensure_future(_result(call("wait"))) for _ in range(50)]
    await servicer.entered.wait()
    servicer.release.set()
    assert {answer.value for answer in await asyncio.gather(*calls)} == {"wait1"}
    assert servicer.computed == 1


async def test_another_takes_over_when_the_first_leaves(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    first = call("wait")
    leaving = asyncio.ensure_future(_result(first))
    await servicer.entered.wait()
    servicer.entered.clear()
    second = asyncio.ensure_future(_result(call("wait")))
    first.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await servicer.entered.wait()
    servicer.release.set()
    assert (await second).value == "wait2"


async def test_a_servicer_without_a_cache_is_refused_at_start(settings: CommonSettings) -> None:
    servicer = Servicer(settings)
    cache, servicer._grpc_cache = servicer._grpc_cache, None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="Servicer.Get is @grpc_cached"):
        async with run_server(server_of(lambda server: _add(servicer, server))):
            pass
    await cache.close()


async def _result(call: Any) -> Any:
    return await call
