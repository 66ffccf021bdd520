"""Calls going out, against real servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo import SERVICE, SHAPES, Echo, EchoClient, add_echo_to_server
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc.client import BaseGrpcClient, close_channels
from mysingle.grpc.errors import GrpcCallError
from mysingle.testing import CertificateAuthority, run_server, server_of


class Stub(EchoClient):
    """Stands for a generated stub: made with a channel."""


class Client(BaseGrpcClient[Stub]):
    stub_class = Stub
    service_name = "echo-service"


def client(server: Any, *, user_id: str = "alice", **settings: Any) -> Client:
    return Client(
        server.address, settings=CommonSettings(_env_file=None, **settings), user_id=user_id
    )


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_channels()


def echo_server(echo: Echo) -> Any:
    return server_of(lambda server: add_echo_to_server(echo, server))


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape(shape: str) -> None:
    async with run_server(echo_server(Echo())) as server, client(server) as one:
        assert (await one.stub.texts(shape, "a"))[-1] == "a"
        assert (await one.stub.texts(shape, "who:"))[-1].startswith("alice/")


@pytest.mark.parametrize("shape", SHAPES)
async def test_errors_are_typed_and_still_grpcios(shape: str) -> None:
    async with run_server(echo_server(Echo())) as server, client(server) as one:
        error = await one.stub.error(shape, "rich:")
    assert isinstance(error, GrpcCallError)
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.message == "not now"
    assert error.violations == {"value": "wrong"}


class Front:
    """A servicer that calls another server."""

    def __init__(self, target: str) -> None:
        self.target = target

    async def Unary(self, request: StringValue, context: Any) -> StringValue:
        async with Client(self.target, settings=CommonSettings(_env_file=None)) as inner:
            call = inner.stub.call("Unary", request.value)
            return await call


async def test_identity_correlation_and_deadline_are_passed_on() -> None:
    seen: list[float | None] = []

    class Back(Echo):
        async def Unary(self, request: StringValue, context: Any) -> StringValue:
            seen.append(context.time_remaining())
            return await super().Unary(request, context)

    async with run_server(echo_server(Back())) as back:
        async with run_server(echo_server(Front(back.address))) as front, client(front) as one:
            metadata = (("correlation-id", "c1"),)
            [answer] = await one.stub.texts("Unary", "who:", timeout=20, metadata=metadata)
            error = await one.stub.error("Unary", "raise:file")
    assert answer == "alice/c1"
    assert seen[0] is not None
    assert seen[0] <= 20
    # The other server's NOT_FOUND speaks of its own things.
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "no such thing" not in str(error)


async def test_the_default_deadline() -> None:
    async with (
        run_server(echo_server(Echo())) as server,
        client(server, GRPC_CLIENT_TIMEOUT_SECONDS=0.2) as one,
    ):
        error = await one.stub.error("Unary", "hang:")
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_no_target_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="set ECHO_SERVICE_GRPC_TARGET"):
        Client()
    monkeypatch.setenv("ECHO_SERVICE_GRPC_TARGET", "there:1")
    assert Client().target == "there:1"


async def test_clients_share_a_connection() -> None:
    async with run_server(echo_server(Echo())) as server:
        async with client(server) as one, client(server, user_id="bob") as other:
            assert one.stub.channel.transport is other.stub.channel.transport
            assert (await one.stub.texts("Unary", "who:"))[0].startswith("alice/")
            assert (await other.stub.texts("Unary", "who:"))[0].startswith("bob/")


async def test_the_breaker_opens_and_closes_again(free_port: int) -> None:
    settings = {"GRPC_CLIENT_BREAKER_FAILURES": 2, "GRPC_CLIENT_BREAKER_RESET_SECONDS": 100}
    one = Client(
        f"127.0.0.1:{free_port}",
        settings=CommonSettings(_env_file=None, **settings),
        user_id="alice",
    )
    async with one:
        for _ in range(2):
            assert (await one.stub.error("Unary", "a")).code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(GrpcCallError, match="circuit open for 127.0.0.1"):
            await one.stub.texts("Unary", "a")
        async with run_server(echo_server(Echo()), port=free_port):
            one.stub.channel.transport.breaker.clock = lambda: math.inf  # the pause is over
            assert await one.stub.texts("Unary", "a", wait_for_ready=True) == ["a"]
            assert await one.stub.texts("Unary", "b") == ["b"]


async def test_only_idempotent_methods_are_retried() -> None:
    class Flaky(Echo):
        async def Unary(self, request: StringValue, context: Any) -> StringValue:
            self.calls += 1
            if self.calls == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            return request

    class Retrying(Client):
        idempotent_methods = (f"/{SERVICE}/Unary",)

    for kind, calls in ((Client, 1), (Retrying, 2)):
        echo = Flaky()
        async with run_server(echo_server(echo)) as server:
            one = kind(server.address, settings=CommonSettings(_env_file=None), user_id="alice")
            async with one:
                call = one.stub.call("Unary", "a")
                await asyncio.gather(_awaited(call), return_exceptions=True)
        assert echo.calls == calls


async def _awaited(call: Any) -> Any:
    return await call


async def test_a_peer_that_goes_mid_stream() -> None:
    echo = Echo()
    async with run_server(echo_server(echo), grace_seconds=0.0) as server, client(server) as one:
        call = one.stub.call("ServerStream", "hang:")
        assert (await call.read()).value == "first"
        await server.stop()
        with pytest.raises(GrpcCallError):
            await call.read()
    assert await echo.ended.get() == "hang"


async def test_mtls_identity(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    of_server, of_client = authority.issue("localhost"), authority.issue("batch")
    tls = {
        "tls_cert_file": of_server.cert_file,
        "tls_key_file": of_server.key_file,
        "tls_client_ca_file": authority.ca_file,
        "auth_identity": "mtls",
    }
    trust = {"GRPC_CLIENT_TLS_CA_FILE": authority.ca_file}
    proof = {
        "GRPC_CLIENT_TLS_CERT_FILE": of_client.cert_file,
        "GRPC_CLIENT_TLS_KEY_FILE": of_client.key_file,
    }
    async with run_server(echo_server(Echo()), **tls) as server:
        async with client(server, user_id="mallory", **trust, **proof) as one:
            assert (await one.stub.texts("Unary", "who:"))[0].startswith("batch/")
        async with client(server, **trust) as stranger:
            assert (await stranger.stub.error("Unary", "a")).code() is (grpc.StatusCode.UNAVAILABLE)
