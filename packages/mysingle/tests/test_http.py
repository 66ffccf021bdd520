"""FastAPI glue, over a real HTTP server."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import uvicorn
from echo import Echo, EchoClient, add_echo_to_server
from fastapi import FastAPI, WebSocket

from mysingle.core.config import CommonSettings
from mysingle.core.context import current
from mysingle.grpc.errors import GrpcError
from mysingle.grpc.server import GrpcServerConfig
from mysingle.http import grpc_lifespan, http_status, install
from mysingle.http._ready import ReadyChecks
from mysingle.testing import connect, server_of

ALICE = (("user-id", "alice"),)
Code = grpc.StatusCode


def settings(**values: Any) -> CommonSettings:
    return CommonSettings(_env_file=None, ENVIRONMENT="test", **values)


class Http(uvicorn.Server):
    """uvicorn that says when it is up."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
        self.up = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()


class Client:
    """Asks one server, each time over a new connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await asyncio.to_thread(self._get, path, named)

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, found, answer.read().decode()
        finally:
            connection.close()


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[Client]:
    server = Http(app)
    task = asyncio.create_task(server.serve())
    await server.up.wait()
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await task


def application(**options: Any) -> FastAPI:
    app = FastAPI()
    install(app, settings(), **options)

    @app.get("/ids")
    async def ids() -> list[str]:
        return [current().correlation_id, current().request_id]

    @app.get("/unexpected")
    async def unexpected() -> None:
        raise RuntimeError("password=hunter2")

    @app.get("/error/{name}")
    async def error(name: str) -> None:
        raise GrpcError(Code[name], "why", violations={"seat": "taken"}, reason="SEAT_TAKEN")

    @app.get("/busy")
    async def busy() -> None:
        raise GrpcError(Code.RESOURCE_EXHAUSTED, "later", retry_after=2.3)

    @app.get("/call")
    async def call() -> None:
        async with grpc.aio.insecure_channel("ipv4:127.0.0.1:1") as channel:
            await channel.unary_unary("/a.B/C")(b"")

    return app


def test_every_code_has_a_status() -> None:
    expected = {
        "OK": 200,
        "CANCELLED": 499,
        "UNKNOWN": 500,
        "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403,
        "UNAUTHENTICATED": 401,
        "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400,
        "ABORTED": 409,
        "OUT_OF_RANGE": 400,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DATA_LOSS": 500,
    }
    assert {code.name: http_status(code) for code in Code} == expected


async def test_correlation_ids_are_kept_made_or_replaced() -> None:
    async with serving(application()) as client:
        _, headers, body = await client.get("/ids", x_correlation_id="c1", x_request_id="r1")
        assert (headers["x-correlation-id"], json.loads(body)) == ("c1", ["c1", "r1"])
        _, headers, body = await client.get("/ids", x_request_id="r1")
        assert (headers["x-correlation-id"], json.loads(body)) == ("r1", ["r1", "r1"])
        _, headers, body = await client.get("/ids", x_correlation_id="x" * 128)
        assert headers["x-correlation-id"] == "x" * 128
        for bad in ("x" * 129, "a b", "caf\xe9", ""):
            _, headers, body = await client.get("/ids", x_correlation_id=bad)
            made = headers["x-correlation-id"]
            assert len(made) == 32
            assert json.loads(body) == [made, made]


async def test_concurrent_requests_keep_their_own_ids() -> None:
    async with serving(application()) as client:
        answers = await asyncio.gather(
            *(client.get("/ids", x_correlation_id=f"c{number}") for number in range(20))
        )
    assert [json.loads(body)[0] for _, _, body in answers] == [f"c{n}" for n in range(20)]


async def test_errors_as_json() -> None:
    async with serving(application()) as client:
        status, headers, body = await client.get("/error/ALREADY_EXISTS", x_correlation_id="c1")
        assert status == 409
        assert headers["x-correlation-id"] == "c1"
        assert json.loads(body) == {
            "error": {
                "code": "ALREADY_EXISTS",
                "message": "why",
                "trace_id": "c1",
                "violations": {"seat": "taken"},
                "reason": "SEAT_TAKEN",
            }
        }
        status, headers, _ = await client.get("/busy")
        assert (status, headers["retry-after"]) == (429, "3")
        status, headers, _ = await client.get("/error/RESOURCE_EXHAUSTED")
        assert (status, headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize("path", ["/unexpected", "/error/INTERNAL"])
async def test_our_own_faults_show_an_id_and_nothing_else(path: str, caplog: Any) -> None:
    with caplog.at_level(logging.ERROR, "mysingle.http"):
        async with serving(application()) as client:
            status, headers, body = await client.get(path, x_correlation_id="c1")
    assert status == 500
    assert headers["x-correlation-id"] == "c1"
    assert json.loads(body) == {
        "error": {"code": "INTERNAL", "message": "Internal error", "trace_id": "c1"}
    }
    assert any(record.exc_info for record in caplog.records if record.name == "mysingle.http")


async def test_a_plain_stubs_dead_backend_is_a_bad_gateway() -> None:
    async with serving(application()) as client:
        status, _, body = await client.get("/call", x_correlation_id="c1")
    assert status == 502
    assert json.loads(body)["error"]["trace_id"] == "c1"
    assert "127.0.0.1" not in body


async def test_health_and_metrics() -> None:
    async with serving(application()) as client:
        assert (await client.get("/healthz"))[0] == 200
        assert json.loads((await client.get("/readyz"))[2]) == {"ready": True, "checks": {}}
        status, headers, body = await client.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert "python_info" in body


async def test_readiness_names_what_failed_and_comes_back() -> None:
    redis_is_up = False

    async def redis() -> bool:
        return redis_is_up

    def queue() -> bool:
        return True

    def broken() -> bool:
        if not redis_is_up:
            raise OSError("away")
        return True

    checks = {"redis": redis, "queue": queue, "broken": broken}
    async with serving(application(ready=checks)) as client:
        status, _, body = await client.get("/readyz")
        assert status == 503
        assert json.loads(body) == {
            "ready": False,
            "checks": {"redis": False, "queue": True, "broken": False},
        }
        redis_is_up = True
        assert (await client.get("/readyz"))[0] == 200


async def test_a_check_that_blocks_or_hangs_fails_and_holds_up_nothing() -> None:
    release = threading.Event()

    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    def blocks() -> bool:
        release.wait(20)
        return True

    class Called:
        async def __call__(self) -> bool:
            return True

    def later() -> Any:
        return Called()()

    checks = ReadyChecks(
        {"hangs": hangs, "blocks": blocks, "called": Called(), "later": later},
        timeout=0.2,
    )
    try:
        # Were `blocks` to run on the loop, no timeout could end it, and it would pass.
        assert await checks.run() == {
            "hangs": False,
            "blocks": False,
            "called": True,
            "later": True,
        }
        assert not release.is_set()
    finally:
        release.set()


async def test_websockets_have_an_id_too() -> None:
    app = application()

    @app.websocket("/ws")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(current().correlation_id)
        await socket.close()

    sent: list[Any] = []
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "websocket.connect"})

    async def send(message: Any) -> None:
        sent.append(message)

    # No client of web sockets is among the dependencies, so this speaks ASGI itself.
    scope = {
        "type": "websocket",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "scheme": "ws",
        "query_string": b"",
        "headers": [(b"x-correlation-id", b"c1")],
        "subprotocols": [],
        "extensions": {},
        "asgi": {"version": "3.0"},
    }
    await app(scope, incoming.get, send)
    assert (b"x-correlation-id", b"c1") in sent[0]["headers"]
    assert sent[1]["text"] == "c1"


async def test_a_grpc_server_lives_as_long_as_the_application() -> None:
    made: list[Any] = []

    def make_server() -> Any:
        config = GrpcServerConfig.from_settings(settings(), port=0, host="127.0.0.1")
        made.append(server_of(lambda s: add_echo_to_server(Echo(), s))(config))
        return made[-1]

    app = FastAPI(lifespan=grpc_lifespan(make_server))
    async with serving(app):
        assert app.state.grpc_server is made[0]
        async with connect(made[0]) as channel:
            assert await EchoClient(channel).texts("Unary", "a", metadata=ALICE) == ["a"]
    assert not made[0].is_serving
    await made[0].wait()
