"""The life of a server: hooks, health, reflection, draining, certificates, processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo import SERVICE, Echo, EchoClient, add_echo_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError, StartError
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig
from mysingle.testing import CertificateAuthority, connect, run_server, server_of

ALICE = (("user-id", "alice"),)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def echo_server(echo: Echo | None = None) -> Any:
    servicer = echo or Echo()
    return server_of(lambda server: add_echo_to_server(servicer, server))


class Hooked(BaseGrpcServer):
    """Writes down what runs."""

    fails_in = ""

    def __init__(self, config: GrpcServerConfig) -> None:
        super().__init__(config)
        self.ran: list[str] = []

    def _run(self, name: str) -> None:
        self.ran.append(name)
        if self.fails_in == name:
            raise RuntimeError("database is away")

    def register_servicers(self, server: Any) -> None:
        self._run("register_servicers")

    async def before_start(self) -> None:
        self._run("before_start")

    async def after_start(self) -> None:
        self._run("after_start")

    async def before_stop(self) -> None:
        self._run("before_stop")

    async def after_stop(self) -> None:
        self._run("after_stop")


def hooked(fails_in: str = "") -> Hooked:
    settings = CommonSettings(_env_file=None, ENVIRONMENT="test", GRPC_SERVER_PORT=0)
    server = Hooked(GrpcServerConfig.from_settings(settings))
    server.fails_in = fails_in
    return server


async def test_hooks_in_order() -> None:
    async with hooked() as server:
        assert server.is_serving
        assert server.port > 0
    await server.stop()  # a second stop does nothing
    assert server.ran == [
        "before_start",
        "register_servicers",
        "after_start",
        "before_stop",
        "after_stop",
    ]
    with pytest.raises(StartError, match="was started before"):
        await server.start()


@pytest.mark.parametrize(
    ("fails_in", "after"),
    [("before_start", True), ("register_servicers", True), ("after_start", True)],
)
async def test_a_failing_hook_names_itself(fails_in: str, after: bool) -> None:
    server = hooked(fails_in)
    with pytest.raises(StartError, match=f"Hooked.{fails_in} failed: RuntimeError: database"):
        await server.start()
    assert ("after_stop" in server.ran) is after


async def test_a_failing_before_stop_still_stops() -> None:
    server = hooked("before_stop")
    await server.start()
    with pytest.raises(StartError, match="before_stop failed"):
        await server.stop()
    assert server.ran[-1] == "after_stop"


async def test_health_follows_the_lifecycle() -> None:
    echo = Echo()
    async with run_server(echo_server(echo)) as server, connect(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as stranger:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.Such"))
        assert stranger.value.code() is grpc.StatusCode.NOT_FOUND
        watch_stranger = stub.Watch(health_pb2.HealthCheckRequest(service="no.Such"))
        assert (await watch_stranger.read()).status == UNKNOWN
        watch_stranger.cancel()

        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        await server.set_health(SERVICE, serving=False)
        assert (await watch.read()).status == NOT_SERVING
        await server.set_health(SERVICE, serving=True)
        assert (await watch.read()).status == SERVING

        # NOT_SERVING comes before the drain: the call under way still gets its answer.
        client = EchoClient(channel)
        waiting = asyncio.ensure_future(client.texts("Unary", "wait:", metadata=ALICE))
        await echo.entered.wait()
        stopping = asyncio.ensure_future(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        echo.release.set()
        assert await waiting == ["wait:"]
        await stopping


async def test_calls_beyond_the_grace_are_cancelled() -> None:
    echo = Echo()
    async with run_server(echo_server(echo), grace_seconds=0.0) as server:
        async with connect(server) as channel:
            call = asyncio.ensure_future(
                EchoClient(channel).error("Unary", "hang:", metadata=ALICE)
            )
            await echo.entered.wait()
            await server.stop()
            assert (await call).code() is grpc.StatusCode.UNAVAILABLE
    assert await echo.ended.get() == "hang"


async def test_reflection_lists_both_versions() -> None:
    async with run_server(echo_server(), enable_reflection=True) as server:
        address = server.address

        def services() -> set[str]:
            with grpc.insecure_channel(address) as channel:
                return set(ProtoReflectionDescriptorDatabase(channel).get_services())

        found = await asyncio.to_thread(services)
    assert found == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } - ({"grpc.health.v1.Health"} - found)


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with run_server(echo_server(), unix_socket=path) as server, connect(server) as channel:
        assert server.port == 0
        assert await EchoClient(channel).texts("Unary", "a", metadata=ALICE) == ["a"]


async def test_a_replaced_certificate_serves_new_connections(tmp_path: Path) -> None:
    old, new = CertificateAuthority(tmp_path, "old"), CertificateAuthority(tmp_path, "new")
    issued = old.issue("localhost", file_name="server")
    tls = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file}
    trust_old = grpc.ssl_channel_credentials(old.ca_file.read_bytes())
    trust_new = grpc.ssl_channel_credentials(new.ca_file.read_bytes())
    async with run_server(echo_server(), **tls) as server:

        async def reaches(credentials: grpc.ChannelCredentials) -> bool:
            async with connect(server, credentials) as channel:
                try:
                    return await EchoClient(channel).texts("Unary", "a", metadata=ALICE) == ["a"]
                except grpc.aio.AioRpcError:
                    return False

        assert await reaches(trust_old)
        issued.key_file.write_text("-----BEGIN nonsense")  # half of a replacement
        assert await reaches(trust_old)
        new.issue("localhost", file_name="server")
        assert await reaches(trust_new)
        assert not await reaches(trust_old)


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        ("tls_cert_file", None, "GRPC_TLS_CERT_FILE: cannot read"),
        ("tls_cert_file", "nothing", "is no PEM file"),
        ("tls_key_file", None, "GRPC_TLS_KEY_FILE: cannot read"),
        ("tls_client_ca_file", None, "GRPC_TLS_CLIENT_CA_FILE: cannot read"),
    ],
)
async def test_a_wrong_certificate_is_one_line(
    tmp_path: Path, setting: str, content: str | None, message: str
) -> None:
    issued = CertificateAuthority(tmp_path).issue("localhost")
    path = tmp_path / "wrong"
    if content is not None:
        path.write_text(content)
    tls = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file, setting: path}
    with pytest.raises(ConfigError, match=message):
        async with run_server(echo_server(), **tls):
            pass


async def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(ConfigError, match="is not the key of GRPC_TLS_CERT_FILE"):
        async with run_server(
            echo_server(), tls_cert_file=one.cert_file, tls_key_file=other.key_file
        ):
            pass


async def test_too_large_a_message() -> None:
    async with run_server(echo_server(), max_receive_message_bytes=1000) as server:
        async with connect(server) as channel:
            error = await EchoClient(channel).error("Unary", "x" * 2000, metadata=ALICE)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


async def test_metrics_endpoint_counts_every_code() -> None:
    def lines(text: str, name: str, method: str) -> dict[str, float]:
        return {
            line.split('grpc_code="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith(f"{name}{{") and f'grpc_method="{method}"' in line
        }

    handled = "mysingle_grpc_server_handled_total"
    echo = Echo()
    async with run_server(echo_server(echo), metrics_port=0) as server, connect(server) as channel:
        url = f"http://localhost:{server.metrics_port}"
        client = EchoClient(channel)
        before = await asyncio.to_thread(get, f"{url}/metrics")
        for shape in ("Unary", "ServerStream", "ClientStream", "Bidi"):
            await client.texts(shape, "a", metadata=ALICE)
            for what in ("abort:", "raise:secret"):
                await client.error(shape, what, metadata=ALICE)
            await client.error(shape, "a")
            await client.error(shape, "hang:", metadata=ALICE, timeout=0.2)
            await echo.ended.get()
            if shape == "ServerStream":
                while not echo.ended.empty():
                    echo.ended.get_nowait()
        after = await asyncio.to_thread(get, f"{url}/metrics")
        assert await asyncio.to_thread(get, f"{url}/readyz") == "ready\n"
    for shape in ("Unary", "ServerStream", "ClientStream", "Bidi"):
        old, new = lines(before, handled, shape), lines(after, handled, shape)
        counted = {code: new[code] - old.get(code, 0) for code in new}
        for code in ("OK", "NotFound", "Internal", "Unauthenticated", "DeadlineExceeded"):
            assert counted[code] == 1, (shape, code, counted)


# -- As a program -------------------------------------------------------------------------------

PROGRAM = """
from mysingle.grpc.server import BaseGrpcServer
from grpc_health.v1 import health_pb2_grpc

class Program(BaseGrpcServer):
    def register_servicers(self, server):
        pass

    async def after_stop(self):
        print("stopped", flush=True)

if __name__ == "__main__":
    Program.main()
"""


def program(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={**os.environ, "ENVIRONMENT": "test", "GRPC_SERVER_PORT": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_program(tmp_path: Path, one: signal.Signals) -> None:
    with program(tmp_path) as process:
        assert process.stdout is not None
        assert "gRPC listening on localhost:" in process.stdout.readline()
        process.send_signal(one)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped" in out


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GRPC_SERVER_PORT": "abc"}, "GRPC_SERVER_PORT: Input should be a valid integer"),
        ({"GRPC_TLS_CERT_FILE": "/no/such", "GRPC_TLS_KEY_FILE": "/no/such"}, "/no/such"),
        ({"ENVIRONMENT": "production", "GRPC_ENABLE_AUTH": "false"}, "GRPC_ENABLE_AUTH=false"),
    ],
)
def test_what_the_operator_did_wrong_is_one_line(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with program(tmp_path, **environment) as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert message in err
    assert "Traceback" not in err + out


def test_a_port_in_use_ends_the_program(tmp_path: Path) -> None:
    with program(tmp_path) as first:
        assert first.stdout is not None
        port = first.stdout.readline().rsplit(":", 1)[1].strip()
        for workers in ("1", "2"):
            second = program(tmp_path, GRPC_SERVER_PORT=port, GRPC_SERVER_WORKERS=workers)
            with second:
                _, err = second.communicate(timeout=20)
            assert second.returncode == 1
            assert port in err
            assert "Traceback" not in err
        first.terminate()


def test_several_workers_share_a_port_and_add_up(tmp_path: Path, free_port: int) -> None:
    environment = {"GRPC_SERVER_WORKERS": "2", "GRPC_METRICS_PORT": str(free_port)}
    with program(tmp_path, **environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.endswith("with 2 workers\n")
            port = line.split("localhost:")[1].split()[0]
            for _ in range(20):
                with grpc.insecure_channel(
                    f"localhost:{port}", [("grpc.use_local_subchannel_pool", 1)]
                ) as channel:
                    stub = health_pb2_grpc.HealthStub(channel)
                    assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING
            text = get(f"http://localhost:{free_port}/metrics")
            [total] = [
                line
                for line in text.splitlines()
                if line.startswith("mysingle_grpc_server_handled_total{")
                and 'grpc_method="Check"' in line
            ]
            assert total.endswith(" 20.0")
        finally:
            process.terminate()
            out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out.count("stopped") == 2


def test_the_log_file_is_json_lines(tmp_path: Path) -> None:
    with program(tmp_path, LOG_FILE="logs/app.log", LOG_LEVEL="DEBUG") as process:
        assert process.stdout is not None
        port = process.stdout.readline().rsplit(":", 1)[1].strip()
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            with pytest.raises(grpc.RpcError):
                channel.unary_unary("/grpc.health.v1.Health/Check")(
                    b"\xff\xff", metadata=(("correlation-id", "c1"),)
                )
        process.terminate()
        process.communicate(timeout=20)
    lines = [json.loads(line) for line in (tmp_path / "logs/app.log").read_text().splitlines()]
    [call] = [line for line in lines if line.get("correlation_id") == "c1"]
    assert call["logger"] == "mysingle.grpc"
    assert call["method"] == "/grpc.health.v1.Health/Check"
    assert call["code"] == "INVALID_ARGUMENT"
