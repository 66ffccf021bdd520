"""Connections: shared, closed, secured, balanced; and calls that are sent again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from echo import SERVICE, SHAPES, Echo, EchoClient, add_echo_to_server
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc import _client_pool
from mysingle.grpc.client import BaseGrpcClient, close_channels
from mysingle.testing import CertificateAuthority, run_server, server_of


class Client(BaseGrpcClient[EchoClient]):
    stub_class = EchoClient
    service_name = "echo-service"


class Generated:
    """As a generated stub: it makes all its methods at once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        for name in ("Unary", "Other"):
            method = channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
            )
            setattr(self, name, method)


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_channels()


def of(target: str, **settings: Any) -> Client:
    return Client(target, settings=CommonSettings(_env_file=None, **settings), user_id="alice")


def echo_server(echo: Echo) -> Any:
    return server_of(lambda server: add_echo_to_server(echo, server))


def state(client_transport: Any) -> grpc.ChannelConnectivity:
    connectivity: grpc.ChannelConnectivity = client_transport.channel.get_state()
    return connectivity


# -- Sharing --------------------------------------------------------------------------------


async def test_one_connection_for_the_same_target_and_security() -> None:
    async with of("there:1") as one, of("there:1") as same, of("there:2") as other:
        transport = one.channel.transport
        assert one.channel.transport is same.channel.transport
        assert one.channel.transport is not other.channel.transport
    async with of("there:1") as later, of("there:1", GRPC_CLIENT_TLS=True) as secure:
        assert later.channel.transport is transport
        assert secure.channel.transport is not later.channel.transport
        assert secure.channel.transport.breaker is later.channel.transport.breaker


async def test_nothing_is_connected_before_the_first_call(free_port: int) -> None:
    async with of(f"127.0.0.1:{free_port}") as client:
        assert state(client.channel.transport) is grpc.ChannelConnectivity.IDLE


async def test_closing_waits_for_the_clients_that_are_left() -> None:
    async with run_server(echo_server(Echo())) as server:
        async with of(server.address) as client:
            transport = client.channel.transport
            await close_channels()
            assert await client.stub.texts("Unary", "a") == ["a"]
            async with of(server.address) as newer:
                assert newer.channel.transport is not transport
        assert state(transport) is grpc.ChannelConnectivity.SHUTDOWN


def test_the_end_of_the_loop_closes_what_is_left() -> None:
    transports = []

    async def main() -> None:
        async with of("there:1") as client:
            transports.append(client.channel.transport)

    asyncio.run(main())
    asyncio.run(main())
    assert transports[0] is not transports[1]
    assert [state(transport) for transport in transports] == [grpc.ChannelConnectivity.SHUTDOWN] * 2


async def test_a_forked_process_takes_no_part_in_its_parents_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with of("there:1") as client:
        parents = client.channel.transport
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: -1)
        async with of("there:1") as client:
            assert client.channel.transport is not parents
        await close_channels()
    assert state(parents) is not grpc.ChannelConnectivity.SHUTDOWN
    assert parents in _client_pool._inherited[-1].transports.values()
    await parents.channel.close()
    _client_pool._inherited.clear()


async def test_a_client_is_used_inside_of_async_with() -> None:
    client = of("there:1")
    with pytest.raises(RuntimeError, match="use Client inside of `async with`"):
        _ = client.stub
    async with client:
        async with client:  # as often as one likes
            assert client.stub
        assert client.stub
    with pytest.raises(RuntimeError, match="async with"):
        _ = client.channel


# -- Where to -------------------------------------------------------------------------------


def test_where_the_target_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ECHO_SERVICE_GRPC_TARGET=file:1\n")
    assert Client().target == "file:1"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("ECHO_SERVICE_GRPC_ADDRESS", "address:1")
    assert Client().target == "address:1"
    monkeypatch.setenv("ECHO_SERVICE_GRPC_TARGET", "target:1")
    assert Client().target == "target:1"

    class Settings(CommonSettings):
        ECHO_SERVICE_GRPC_TARGET: str = "settings:1"

    monkeypatch.delenv("ECHO_SERVICE_GRPC_TARGET")
    assert Client(settings=Settings(_env_file=None)).target == "settings:1"
    assert Client("given:1").target == "given:1"


def test_settings_are_read_again_when_the_environment_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Client("there:1")._settings is Client("there:1")._settings
    monkeypatch.setenv("GRPC_CLIENT_TIMEOUT_SECONDS", "7")
    assert Client("there:1")._settings.GRPC_CLIENT_TIMEOUT_SECONDS == 7
    monkeypatch.setenv("GRPC_CLIENT_TIMEOUT_SECONDS", "soon")
    with pytest.raises(ConfigError, match="GRPC_CLIENT_TIMEOUT_SECONDS"):
        Client("there:1")


async def test_calls_go_to_all_addresses_in_turn() -> None:
    echoes = [Echo(), Echo()]
    async with AsyncExitStack() as stack:
        ports = []
        for echo in echoes:
            server = await stack.enter_async_context(run_server(echo_server(echo)))
            ports.append(server.address.rsplit(":", 1)[1])
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        client = await stack.enter_async_context(of(target))
        while not all(echo.calls for echo in echoes):  # until both are connected
            await client.stub.texts("Unary", "a")
        before = [echo.calls for echo in echoes]
        for _ in range(10):
            await client.stub.texts("Unary", "a")
    assert [echo.calls - count for echo, count in zip(echoes, before, strict=True)] == [5, 5]


async def test_the_other_address_serves_when_one_is_away(free_port: int) -> None:
    async with run_server(echo_server(Echo())) as server:
        port = server.address.rsplit(":", 1)[1]
        async with of(f"ipv4:127.0.0.1:{free_port},127.0.0.1:{port}") as client:
            for _ in range(10):
                assert await client.stub.texts("Unary", "a") == ["a"]


async def test_a_message_that_is_too_large_for_the_settings() -> None:
    async with (
        run_server(echo_server(Echo())) as server,
        of(server.address, GRPC_MAX_RECEIVE_MESSAGE_BYTES=100) as client,
    ):
        assert (await client.stub.texts("Unary", "a" * 50)) == ["a" * 50]
        error = await client.stub.error("Unary", "a" * 200)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# -- TLS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
async def test_tls_in_every_shape(tmp_path: Path, shape: str) -> None:
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost")
    tls = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file}
    async with run_server(echo_server(Echo()), **tls) as server:
        async with of(server.address, GRPC_CLIENT_TLS_CA_FILE=authority.ca_file) as client:
            assert (await client.stub.texts(shape, "a"))[-1] == "a"
        stranger = CertificateAuthority(tmp_path, "stranger")
        async with of(server.address, GRPC_CLIENT_TLS_CA_FILE=stranger.ca_file) as client:
            error = await client.stub.error(shape, "a")
            assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "name", ["GRPC_CLIENT_TLS_CA_FILE", "GRPC_CLIENT_TLS_CERT_FILE", "GRPC_CLIENT_TLS_KEY_FILE"]
)
async def test_a_missing_file_names_its_setting(tmp_path: Path, name: str) -> None:
    issued = CertificateAuthority(tmp_path).issue("batch")
    files = {
        "GRPC_CLIENT_TLS_CERT_FILE": issued.cert_file,
        "GRPC_CLIENT_TLS_KEY_FILE": issued.key_file,
        name: tmp_path / "absent.pem",
    }
    with pytest.raises(ConfigError, match=rf"{name}: cannot read .*absent\.pem"):
        async with of("there:1", **files):
            pass


async def test_a_replaced_certificate_is_used_by_new_clients(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    files = {"GRPC_CLIENT_TLS_CA_FILE": authority.ca_file}
    async with of("there:1", **files) as old:
        transport = old.channel.transport
        async with of("there:1", **files) as same:
            assert same.channel.transport is transport
        os.utime(authority.ca_file, ns=(0, 1))
        async with of("there:1", **files) as new:
            assert new.channel.transport is not transport
        assert state(transport) is not grpc.ChannelConnectivity.SHUTDOWN
    assert state(transport) is grpc.ChannelConnectivity.SHUTDOWN


# -- Calls that are sent again --------------------------------------------------------------


class Away(Echo):
    """Says so often that it is away before it answers."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    async def Unary(self, request: StringValue, context: Any) -> StringValue:
        self.calls += 1
        if self.calls <= self.times:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return request

    async def Other(self, request: StringValue, context: Any) -> StringValue:
        return await self.Unary(request, context)


def generated(target: str, idempotent: tuple[str, ...], **settings: Any) -> Any:
    class Kind(BaseGrpcClient[Any]):
        stub_class = Generated
        idempotent_methods = idempotent

    values = {"GRPC_CLIENT_BREAKER_FAILURES": 0, **settings}
    return Kind(target, settings=CommonSettings(_env_file=None, **values), user_id="alice")


@pytest.mark.parametrize(
    ("idempotent", "tried"),
    [
        ((), {"Unary": 1, "Other": 1}),
        (("Unary",), {"Unary": 3, "Other": 1}),
        ((f"/{SERVICE}/Other",), {"Unary": 1, "Other": 3}),
        (("*",), {"Unary": 3, "Other": 3}),
    ],
)
async def test_only_idempotent_calls_are_sent_again(
    idempotent: tuple[str, ...], tried: dict[str, int]
) -> None:
    for name, times in tried.items():
        echo = Away(float("inf"))
        async with run_server(echo_server(echo)) as server:
            async with generated(server.address, idempotent) as client:
                with pytest.raises(grpc.aio.AioRpcError, match="away"):
                    await getattr(client.stub, name)(StringValue(value="a"))
        assert echo.calls == times


async def test_the_answer_of_a_later_attempt_is_the_calls() -> None:
    echo = Away(2)
    async with run_server(echo_server(echo)) as server:
        async with generated(server.address, ("Unary",)) as client:
            assert (await client.stub.Unary(StringValue(value="a"))).value == "a"
    assert echo.calls == 3


async def test_attempts_can_be_turned_off() -> None:
    echo = Away(1)
    async with run_server(echo_server(echo)) as server:
        async with generated(server.address, ("*",), GRPC_CLIENT_RETRY_MAX_ATTEMPTS=1) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="away"):
                await client.stub.Unary(StringValue(value="a"))
    assert echo.calls == 1


async def test_a_failing_server_is_not_stormed() -> None:
    echo = Away(float("inf"))
    async with run_server(echo_server(echo)) as server:
        async with generated(server.address, ("*",)) as client:
            for _ in range(30):
                with pytest.raises(grpc.aio.AioRpcError, match="away"):
                    await client.stub.Unary(StringValue(value="a"))
    assert 30 < echo.calls < 45  # without throttling it would be 90


def test_an_unknown_idempotent_method_names_the_known() -> None:
    with pytest.raises(ConfigError, match="no method 'Get' in the stub; it has Other, Unary"):
        generated("there:1", ("Get",))
