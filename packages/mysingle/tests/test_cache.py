"""The two-tier cache, over a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import ListValue, Struct
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from redis.asyncio import Redis

from mysingle.core.config import CommonSettings
from mysingle.core.context import RequestContext, _current
from mysingle.core.errors import ConfigError
from mysingle.database import RedisServer
from mysingle.grpc._cache_flight import Flights
from mysingle.grpc._cache_l1 import LocalCache
from mysingle.grpc._cache_pattern import KeyPattern
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


def hears(cache: GrpcCache) -> asyncio.Event:
    """Set once another process told this cache of an invalidation."""
    heard = asyncio.Event()
    assert cache._l2 is not None
    before = cache._l2._on_invalidated
    cache._l2._on_invalidated = lambda text, exact: (before(text, exact), heard.set())
    return heard


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
    heard = hears(other)
    assert await one.invalidate_pattern("GetStrategyVersion*id-1*") == 1
    await heard.wait()
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
    caplog.set_level("INFO", "mysingle.grpc")
    cache = GrpcCache(settings, "s", retry_seconds=0.01)
    await listening(cache)
    key = cache.make_cache_key("Get", request("a"))
    redis.stop()
    assert await cache.get_with_l1(key) is None
    await cache.set_with_l1(key, request("answer"), ttl=60)
    assert await cache.get_with_l1(key) == request("answer")
    assert await cache.invalidate_pattern("Get*") == 1
    assert await cache.get_with_l1(key) is None
    redis.start()
    await is_back(cache)
    assert await cache.get_with_l1(key) is None
    await cache.set_with_l1(key, request("answer"), ttl=60)
    other = GrpcCache.from_settings(settings, service_name="s")
    assert await other.get_with_l1(key) == request("answer")
    await cache.close()
    await other.close()
    messages = [record.message for record in caplog.records]
    assert sum("Redis is away" in one for one in messages) == 1
    assert sum("Redis is back" in one for one in messages) == 1


async def is_back(cache: GrpcCache) -> None:
    assert cache._l2 is not None
    await cache._l2.watch.back()
    await cache._l2.listening.wait()


async def test_what_was_invalidated_while_redis_was_away_does_not_come_back(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path / "kept", persistent=True) as redis:
        settings = CommonSettings(_env_file=None, REDIS_URL=redis.url)
        cache = GrpcCache(settings, "s", retry_seconds=0.01)
        keys = [cache.make_cache_key("Get", request(value)) for value in ("a", "b", "c")]
        await listening(cache)
        for key in keys:
            await cache.set_with_l1(key, request("old"), ttl=60)
        redis.stop()
        await cache.invalidate_pattern("Get*value=a|*")
        await cache.invalidate(keys[1])
        redis.start()
        await is_back(cache)
        other = GrpcCache.from_settings(settings, service_name="s")
        found = [await other.get_with_l1(key) for key in keys]
        assert found == [None, None, request("old")]
        await cache.close()
        await other.close()


async def test_a_computation_begun_while_redis_was_away_stays_in_this_process(
    settings: CommonSettings, redis: RedisServer
) -> None:
    cache = GrpcCache(settings, "s", retry_seconds=0.01)
    await listening(cache)
    key = cache.make_cache_key("Get", request("a"))
    redis.stop()
    assert await cache.get_with_l1(key) is None
    redis.start()
    await is_back(cache)
    # Others may have invalidated it, and nobody told us.
    await cache.set_with_l1(key, request("stale"), ttl=60)
    other = GrpcCache.from_settings(settings, service_name="s")
    assert await other.get_with_l1(key) is None
    await cache.close()
    await other.close()


async def test_memory_is_cleared_when_word_may_have_been_missed(
    pair: tuple[GrpcCache, GrpcCache], redis: RedisServer
) -> None:
    one, other = pair
    key = one.make_cache_key("Get", request("a"))
    await one.set_with_l1(key, request("old"), ttl=60)
    assert await other.get_with_l1(key) == request("old")
    assert one._l2 is not None
    assert other._l2 is not None
    one._l2._retry_seconds = other._l2._retry_seconds = 0.01
    heard = hears(other)
    admin = Redis.from_url(redis.url, db=1)
    # Gone from Redis while `other` does not listen.
    await admin.client_kill_filter(_type="pubsub")
    await admin.flushdb()
    await heard.wait()
    assert await other.get_with_l1(key) is None
    await admin.aclose()


async def test_a_hung_redis_costs_one_caller_and_not_all(
    settings: CommonSettings, redis: RedisServer
) -> None:
    settings = settings.override(REDIS_URL=f"{redis.url}?socket_timeout=0.2")
    cache = GrpcCache(settings, "s", retry_seconds=3600)
    await listening(cache)
    assert redis._process is not None
    redis._process.send_signal(signal.SIGSTOP)
    try:
        await cache.get_with_l1("a")
        asked: list[str] = []
        cache._l2._get = lambda **_: asked.append("again")  # type: ignore[union-attr, assignment]
        assert await cache.get_with_l1("b") is None
        assert asked == []
    finally:
        redis._process.send_signal(signal.SIGCONT)
    await cache.close()


async def test_memory_keeps_nothing_longer_than_redis(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, other = pair
    now = [0.0]
    other._l1._clock = lambda: now[0]
    key = one.make_cache_key("Get", request("a"))
    await one.set_with_l1(key, request("answer"), ttl=5)
    assert await other.get_with_l1(key) is not None
    now[0] = 5.0
    assert other.get_from_l1(key) is None


async def test_two_calls_that_miss_store_each_by_its_own_miss(
    pair: tuple[GrpcCache, GrpcCache],
) -> None:
    one, other = pair
    key = one.make_cache_key("Get", request("a"))
    may_set = {"before": asyncio.Event(), "after": asyncio.Event()}
    missed = {"before": asyncio.Event(), "after": asyncio.Event()}

    async def call(which: str) -> None:
        assert await one.get_with_l1(key) is None
        missed[which].set()
        await may_set[which].wait()
        await one.set_with_l1(key, request(which), ttl=60)

    tasks = {"before": asyncio.create_task(call("before"))}
    await missed["before"].wait()
    heard = hears(one)
    await other.invalidate_pattern("Get*")
    await heard.wait()
    tasks["after"] = asyncio.create_task(call("after"))
    await missed["after"].wait()
    for which in ("before", "after"):
        may_set[which].set()
        await tasks[which]
        expected = None if which == "before" else request("after")
        assert await other.get_with_l1(key) == expected


@pytest.mark.parametrize("lost", ["flushed", "evicted"])
async def test_a_lost_epoch_is_not_taken_for_the_one_before(
    pair: tuple[GrpcCache, GrpcCache], redis: RedisServer, lost: str
) -> None:
    one, other = pair
    assert one._l2 is not None
    key = one.make_cache_key("Get", request("a"))
    admin = Redis.from_url(redis.url, db=1)
    await admin.flushdb()
    assert await one.get_with_l1(key) is None
    await (admin.flushdb() if lost == "flushed" else admin.delete(one._l2._epoch_key))
    await other.get_with_l1("begins a new epoch")
    await one.set_with_l1(key, request("stale"), ttl=60)
    assert await other.get_with_l1(key) is None
    await admin.aclose()


async def test_a_cancelled_invalidation_is_finished(pair: tuple[GrpcCache, GrpcCache]) -> None:
    one, other = pair
    key = one.make_cache_key("Get", request("a"))
    await one.set_with_l1(key, request("old"), ttl=60)
    assert await other.get_with_l1(key) is not None
    heard = hears(other)
    begun = asyncio.Event()
    assert one._l2 is not None
    drop = one._l2._drop

    async def watched(text: str, exact: bool) -> int:
        begun.set()
        return await drop(text, exact)

    one._l2._drop = watched  # type: ignore[method-assign]
    leaving = asyncio.create_task(one.invalidate(key))
    await begun.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await heard.wait()
    assert await other.get_with_l1(key) is None


async def test_one_key_is_dropped_whatever_it_looks_like(
    pair: tuple[GrpcCache, GrpcCache],
) -> None:
    one, _ = pair
    for key in ("mine:*", "mine:1"):
        await one.set_with_l1(key, request(key), ttl=60)
    assert await one.invalidate("mine:*") == 1
    assert await one.get_with_l1("mine:1") == request("mine:1")


@pytest.mark.parametrize(
    "value", ["id-1", "a,b", "a=b", "a|b", "50%", "a[b]c", "a\\b", "é ü", "a\nb", "y" * 80]
)
async def test_the_guides_pattern_matches_any_value(
    pair: tuple[GrpcCache, GrpcCache], value: str
) -> None:
    one, other = pair
    many = ListValue()
    many.extend([f"other-{n}-{'x' * 30}" for n in range(50)] + [value])
    keys = [one.make_cache_key("GetStrategyVersion", message) for message in (request(value), many)]
    kept = one.make_cache_key("GetStrategyVersion", request("unlike"))
    for key in (*keys, kept):
        await one.set_with_l1(key, request("answer"), ttl=60)
        assert await other.get_with_l1(key) is not None
    heard = hears(other)
    assert await one.invalidate_pattern(f"GetStrategyVersion*{value}*") == len(keys)
    await heard.wait()
    for cache in pair:
        assert [await cache.get_with_l1(key) for key in keys] == [None, None]
        assert await cache.get_with_l1(kept) is not None


def test_only_star_and_question_mark_are_wildcards() -> None:
    for pattern, key, matches in (
        ("a*c", "abbc", True),
        ("a*c", "abbd", False),
        ("a?c", "aéc", True),
        ("a?c", "ac", False),
        ("a*b*a", "aba", True),
        ("ab*ba", "aba", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("*", "a\nb", True),
    ):
        assert KeyPattern(pattern).matches(key) is matches, (pattern, key)


def test_a_pattern_of_many_stars_is_quick_to_fail() -> None:
    # As a regular expression of `.*a.*a…` this would not end in a lifetime.
    assert not KeyPattern("a*" * 60 + "b").matches("a" * 2000)
    assert KeyPattern("a*" * 60 + "b").glob == "a*"


def test_services_types_and_users_have_keys_of_their_own() -> None:
    cache = GrpcCache.from_settings(CommonSettings(_env_file=None), service_name="s")
    keys = {cache.make_cache_key("Get", StringValue()), cache.make_cache_key("Get", BytesValue())}
    for method in ("/a.A/Get", "/b.B/Get"):
        token = _current.set(RequestContext(method=method, user_id="alice"))
        keys.add(cache.make_cache_key("Get", StringValue()))
        keys.add(cache.make_cache_key("Get", StringValue(), shared=True))
        _current.reset(token)
    assert len(keys) == 6


async def test_a_number_of_a_database_in_the_url_does_not_win(redis: RedisServer) -> None:
    settings = CommonSettings(_env_file=None, REDIS_URL=f"{redis.url}/0")
    cache = GrpcCache.from_settings(settings, service_name="s")
    await cache.set_with_l1("k", request("answer"), ttl=60)
    sizes = []
    for db in (0, settings.REDIS_DB_GRPC):
        admin = Redis.from_url(redis.url, db=db)
        sizes.append(await admin.dbsize())
        await admin.aclose()
    assert sizes[0] == 0
    assert sizes[1] > 0
    await cache.close()


async def test_what_is_in_redis_is_no_pickle(
    pair: tuple[GrpcCache, GrpcCache], redis: RedisServer
) -> None:
    one, other = pair
    await one.set_with_l1("k", request("answer"), ttl=60)
    assert one._l2 is not None
    name = one._l2._values + "k"
    admin = Redis.from_url(redis.url, db=1)
    packed = AnyMessage.FromString(await admin.get(name))
    assert packed.TypeName() == "google.protobuf.StringValue"
    for rubbish in (
        b"\xff",
        AnyMessage(type_url="type.googleapis.com/no.Such").SerializeToString(),
    ):
        await admin.set(name, rubbish)
        assert await other.get_with_l1("k") is None
    await admin.aclose()


def test_the_cache_follows_to_another_event_loop(settings: CommonSettings) -> None:
    cache = GrpcCache.from_settings(settings, service_name="s")

    async def use() -> Any:
        cache._l1.clear()
        found = await cache.get_with_l1("k")
        await cache.set_with_l1("k", request("answer"), ttl=60)
        await cache.close()
        return found

    assert asyncio.run(use()) is None
    assert asyncio.run(use()) == request("answer")


async def test_without_redis_only_memory() -> None:
    cache = GrpcCache.from_settings(CommonSettings(_env_file=None), service_name="s")
    key = cache.make_cache_key("Get", request("a"))
    await cache.set_with_l1(key, request("answer"))
    assert await cache.get_with_l1(key) == request("answer")
    assert await cache.invalidate_pattern("Get*") == 1
    for ttl in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ttl must be positive"):
            await cache.set_with_l1(key, request("answer"), ttl=ttl)


def test_memory_drops_the_least_recently_used_and_the_old() -> None:
    now = [0.0]
    cache = LocalCache(2, 10, clock=lambda: now[0])
    one, two, three = ((StringValue, value) for value in (b"1", b"2", b"3"))
    cache.set("a", one, 100)
    cache.set("b", two, 5)
    cache.get("a")
    cache.set("c", three, 100)
    assert cache.get("b") is None
    assert cache.get("a") == one
    now[0] = 10.0
    assert cache.get("a") is None
    assert len(cache) == 1


def test_refused_at_import() -> None:
    for ttl in (0, -1, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match="positive ttl"):
            grpc_cached(ttl=ttl)  # type: ignore[arg-type]
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
        computed = self.computed
        if request.value in ("wait", "abort", "wait-code"):
            await self.release.wait()
        if request.value == "abort":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is one")
        if request.value == "fail":
            raise FileNotFoundError("no such thing")
        if "code" in request.value:
            context.set_code(grpc.StatusCode.ABORTED)
            context.set_details("try again")
        return StringValue(value=f"{request.value}{computed}")

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


async def test_an_abort_reaches_all_who_wait(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    all_wait = followers(servicer, 9)
    calls = [asyncio.ensure_future(_result(call("abort"))) for _ in range(10)]
    await all_wait.wait()
    await servicer.entered.wait()
    servicer.release.set()
    errors: Any = await asyncio.gather(*calls, return_exceptions=True)
    assert {(one.code(), one.details()) for one in errors} == {
        (grpc.StatusCode.ALREADY_EXISTS, "there is one")
    }
    assert servicer.computed == 1


async def test_a_status_that_was_set_reaches_all_who_wait(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    all_wait = followers(servicer, 9)
    calls = [asyncio.ensure_future(_result(call("wait-code"))) for _ in range(10)]
    await all_wait.wait()
    await servicer.entered.wait()
    servicer.release.set()
    errors: Any = await asyncio.gather(*calls, return_exceptions=True)
    assert {(one.code(), one.details()) for one in errors} == {
        (grpc.StatusCode.ABORTED, "try again")
    }
    assert servicer.computed == 1


class CountedFlights(Flights):
    """Says when so many callers wait for another's computation."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted = wanted
        self.all_wait = asyncio.Event()

    def join(self, key: str, generation: int) -> Any:
        flight = super().join(key, generation)
        if flight is not None:
            self._wanted -= 1
            if self._wanted == 0:
                self.all_wait.set()
        return flight


def followers(servicer: Servicer, wanted: int) -> asyncio.Event:
    """Set when so many calls wait for the one that computes."""
    flights = CountedFlights(wanted)
    servicer.__dict__["_grpc_cache_flights"] = flights
    return flights.all_wait


async def test_who_comes_after_an_invalidation_gets_what_is_true_then(
    served: tuple[Servicer, Any],
) -> None:
    servicer, call = served
    before = asyncio.ensure_future(_result(call("wait")))
    await servicer.entered.wait()
    servicer.entered.clear()
    await servicer._grpc_cache.invalidate_pattern("Get*wait*")
    after = asyncio.ensure_future(_result(call("wait")))
    await servicer.entered.wait()  # it computes for itself
    servicer.release.set()
    await before
    assert (await after).value == "wait2"
    assert (await call("wait")).value == "wait2"
    assert servicer.computed == 2


async def test_a_follower_who_leaves_harms_nobody(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    all_wait = followers(servicer, 2)
    first = asyncio.ensure_future(_result(call("wait")))
    await servicer.entered.wait()
    leaving = call("wait")
    left = asyncio.ensure_future(_result(leaving))
    staying = asyncio.ensure_future(_result(call("wait")))
    await all_wait.wait()
    leaving.cancel()
    await asyncio.gather(left, return_exceptions=True)
    servicer.release.set()
    assert {(await first).value, (await staying).value} == {"wait1"}
    assert servicer.computed == 1


async def test_calls_are_answered_while_redis_is_away(
    served: tuple[Servicer, Any], redis: RedisServer
) -> None:
    _, call = served
    redis.stop()
    assert (await call("a")).value == "a1"
    assert (await call("a")).value == "a1"


async def test_one_computation_for_many(served: tuple[Servicer, Any]) -> None:
    servicer, call = served
    all_wait = followers(servicer, 49)
    calls = [asyncio.ensure_future(_result(call("wait"))) for _ in range(50)]
    await all_wait.wait()
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
