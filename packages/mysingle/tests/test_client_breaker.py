"""A target that fails again and again is left alone, until one call finds it well."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from echo import Echo, EchoClient, add_echo_to_server

from mysingle.core.config import CommonSettings
from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc.client import BaseGrpcClient, close_channels
from mysingle.grpc.errors import GrpcCallError
from mysingle.testing import run_server, server_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
OK = grpc.StatusCode.OK


class Client(BaseGrpcClient[EchoClient]):
    stub_class = EchoClient
    service_name = "echo-service"


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_channels()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(failures: int = 2, reset: float = 5) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker(failures, reset, clock=clock)
    for _ in range(failures):
        assert enter(breaker) is not None
        breaker.record(UNAVAILABLE, breaker.ticket)
    return breaker, clock


def enter(breaker: CircuitBreaker) -> int | None:
    return None if breaker.seconds_to_wait() else breaker.ticket


def test_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(2, 5, clock=Clock())
    for code in (UNAVAILABLE, OK, UNAVAILABLE, grpc.StatusCode.INTERNAL, UNAVAILABLE):
        breaker.record(code, breaker.ticket)
    assert not breaker.is_open
    breaker.record(grpc.StatusCode.DEADLINE_EXCEEDED, breaker.ticket)
    assert breaker.seconds_to_wait() == 5


def test_zero_never_opens() -> None:
    breaker = CircuitBreaker(0, 5, clock=Clock())
    for _ in range(1000):
        breaker.record(UNAVAILABLE, breaker.ticket)
    assert enter(breaker) is not None


def test_one_call_tries_and_closes_it() -> None:
    breaker, clock = opened()
    assert enter(breaker) is None
    clock.now = 5
    probe = enter(breaker)
    assert probe is not None
    assert enter(breaker) is None
    breaker.record(grpc.StatusCode.NOT_FOUND, probe)  # an answer
    assert not breaker.is_open


def test_one_call_tries_and_opens_it_again() -> None:
    breaker, clock = opened()
    clock.now = 7
    probe = enter(breaker)
    assert probe is not None
    breaker.record(UNAVAILABLE, probe)
    assert breaker.seconds_to_wait() == 5
    clock.now = 12
    assert enter(breaker) is not None


def test_a_cancelled_try_makes_room_for_the_next_at_once() -> None:
    breaker, clock = opened()
    clock.now = 5
    probe = enter(breaker)
    assert probe is not None
    breaker.record(grpc.StatusCode.CANCELLED, probe)
    assert breaker.is_open
    assert enter(breaker) is not None


def test_a_try_that_is_never_heard_of_again_holds_nobody_back() -> None:
    breaker, clock = opened()
    clock.now = 5
    first = enter(breaker)
    assert first is not None
    clock.now = 10
    second = enter(breaker)
    assert second is not None
    breaker.record(UNAVAILABLE, first)  # late, and not the one that tries
    assert enter(breaker) is None
    breaker.record(OK, first)  # slow, but it is well
    assert not breaker.is_open


def test_calls_from_before_it_opened_say_nothing() -> None:
    breaker, clock = opened()
    old = 0
    clock.now = 3
    breaker.record(UNAVAILABLE, old)
    assert breaker.seconds_to_wait() == 2  # not put off
    breaker.record(OK, old)
    assert breaker.is_open


def of(port: int, **settings: Any) -> Client:
    values = {"GRPC_CLIENT_BREAKER_FAILURES": 2, "GRPC_CLIENT_BREAKER_RESET_SECONDS": 100}
    return Client(
        f"127.0.0.1:{port}",
        settings=CommonSettings(_env_file=None, **{**values, **settings}),
        user_id="alice",
    )


def breaker_of(client: Client) -> CircuitBreaker:
    breaker: CircuitBreaker = client.channel.transport.breaker
    return breaker


def let_try(client: Client) -> None:
    """The pause is over, from now on and for as long as the circuit is open."""
    breaker_of(client).clock = lambda: math.inf


async def test_refuses_without_asking_and_says_when_to_come_back(free_port: int) -> None:
    async with of(free_port) as client:
        for _ in range(2):
            assert (await client.stub.error("Unary", "a")).code() is UNAVAILABLE
        async with run_server(server_of(lambda s: add_echo_to_server(Echo(), s)), port=free_port):
            for shape in ("Unary", "ServerStream", "ClientStream", "Bidi"):
                error = await client.stub.error(shape, "a")
                assert isinstance(error, GrpcCallError)
                assert error.code() is UNAVAILABLE
                assert f"circuit open for 127.0.0.1:{free_port}, next try in" in error.message
                assert error.retry_after is not None
                assert 0 < error.retry_after <= 100


async def test_a_cancelled_try_over_the_wire(free_port: int) -> None:
    echo = Echo()
    async with of(free_port) as client:
        for _ in range(2):
            await client.stub.error("Unary", "a")
        async with run_server(server_of(lambda s: add_echo_to_server(echo, s)), port=free_port):
            breaker_of(client).clock = lambda: 1e9
            call = client.stub.call("Unary", "hang:", wait_for_ready=True)
            await echo.entered.wait()
            assert (await client.stub.error("Unary", "a")).code() is UNAVAILABLE
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await client.stub.texts("Unary", "b") == ["b"]
            assert not breaker_of(client).is_open


async def test_a_stream_is_well_with_its_first_message(free_port: int) -> None:
    async with of(free_port) as client:
        for _ in range(2):
            await client.stub.error("Unary", "a")
        async with run_server(
            server_of(lambda s: add_echo_to_server(Echo(), s)), port=free_port, grace_seconds=0.0
        ):
            let_try(client)
            call = client.stub.call("ServerStream", "hang:", wait_for_ready=True)
            assert (await call.read()).value == "first"
            assert not breaker_of(client).is_open
            assert await client.stub.texts("Unary", "b") == ["b"]
            call.cancel()


async def test_answers_of_a_healthy_server_never_open_it() -> None:
    async with run_server(server_of(lambda s: add_echo_to_server(Echo(), s))) as server:
        client = Client(
            server.address,
            settings=CommonSettings(_env_file=None, GRPC_CLIENT_BREAKER_FAILURES=1),
            user_id="alice",
        )
        async with client:
            for what in ("abort:", "rich:", "raise:key", "raise:secret"):
                await client.stub.error("Unary", what)
            assert await client.stub.texts("Unary", "a") == ["a"]


async def test_deadlines_open_it_for_all_clients_of_the_target() -> None:
    echo = Echo()
    async with run_server(server_of(lambda s: add_echo_to_server(echo, s))) as server:
        port = int(server.address.rsplit(":", 1)[1])
        async with of(port) as one, of(port) as other:
            for _ in range(2):
                error = await one.stub.error("Unary", "hang:", timeout=0.05)
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "circuit open" in (await other.stub.error("Unary", "a")).details()
            async with of(port, GRPC_CLIENT_BREAKER_FAILURES=0) as without:
                assert await without.stub.texts("Unary", "a") == ["a"]


async def test_a_request_that_cannot_be_written_is_not_the_targets_fault() -> None:
    async with run_server(server_of(lambda s: add_echo_to_server(Echo(), s))) as server:
        port = int(server.address.rsplit(":", 1)[1])
        async with of(port, GRPC_CLIENT_BREAKER_FAILURES=1) as client:
            method = client.channel.unary_unary("/test.Echo/Unary", request_serializer=len)
            with pytest.raises(GrpcCallError, match="request int cannot be serialized"):
                await method(3)
            assert await client.stub.texts("Unary", "a") == ["a"]
