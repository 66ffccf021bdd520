"""api_service over real HTTP connections, with a real gRPC server behind it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import uvicorn

from api_service.app import create_app
from api_service.config import ApiSettings
from mysingle.cli.walk import Walk, http_get
from mysingle.core.context import current
from mysingle.grpc.client import close_channels
from mysingle.grpc.errors import GrpcError
from mysingle.testing import run_server, server_of
from shared_protos import math_pb2, math_pb2_grpc

HERE = Path(__file__).parents[1]


class Backend(math_pb2_grpc.MathServiceServicer):
    """Stands for math_service, which this service may not import."""

    def __init__(self):
        self.seen = []
        self.cancelled = asyncio.Event()

    async def Add(self, request, context):
        self.seen.append(current().correlation_id)
        if request.a == 1001:
            raise GrpcError(grpc.StatusCode.OUT_OF_RANGE, "too much", violations={"a": "too much"})
        if request.a == 1002:
            raise GrpcError(grpc.StatusCode.INVALID_ARGUMENT, "nonsense")
        if request.a == 1003:
            raise RuntimeError("password=hunter2")
        if request.a == 1004:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return math_pb2.AddReply(result=request.a + request.b)


def backend_server(backend):
    return server_of(lambda s: math_pb2_grpc.add_MathServiceServicer_to_server(backend, s))


class Http(uvicorn.Server):
    """uvicorn that says when it is up."""

    def __init__(self, app):
        super().__init__(uvicorn.Config(app, port=0, log_config=None))
        self.up = asyncio.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def api(target, **settings):
    """The base URL of api_service, running in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATH_SERVICE_GRPC_TARGET", target)
        server = Http(create_app(ApiSettings(_env_file=None, ENVIRONMENT="test", **settings)))
        serving = asyncio.create_task(server.serve())
        await server.up.wait()
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
            await close_channels()


@asynccontextmanager
async def program(target):
    """The base URL of api_service, running as the program of document E."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "api_service.app:app", "--port", "0"),
        cwd=HERE,
        env={**os.environ, "MATH_SERVICE_GRPC_TARGET": target},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    seen = b""
    while (found := re.search(rb"running on (http://\S+)", seen)) is None:
        line = await process.stderr.readline()
        assert line, seen.decode()
        seen += line
    rest = asyncio.create_task(process.stderr.read())
    try:
        yield found[1].decode()
    finally:
        process.terminate()
        await process.wait()
        await rest


@asynccontextmanager
async def both(run=api, **settings):
    backend = Backend()
    async with (
        run_server(backend_server(backend), enable_auth=False) as server,
        run(server.address, **settings) as url,
    ):
        yield url, backend, server


@pytest.mark.parametrize("run", [api, program])
async def test_document_e_three_and_five_are_eight(run):
    async with both(run) as (url, _, _):
        answer = await http_get(f"{url}/add?a=3&b=5")
    assert (answer.status, json.loads(answer.body)) == (200, {"result": 8})


async def test_what_the_backend_refuses_is_the_callers_fault():
    async with both() as (url, _, _):
        too_much = await http_get(f"{url}/add?a=1001&b=0")
        nonsense = await http_get(f"{url}/add?a=1002&b=0")
    assert too_much.status == nonsense.status == 400
    assert json.loads(too_much.body)["error"]["code"] == "OUT_OF_RANGE"
    assert json.loads(too_much.body)["error"]["violations"] == {"a": "too much"}


@pytest.mark.parametrize(
    "query", ["a=three&b=5", "a=3", "", f"a={2**31}&b=0", f"a={-(2**31) - 1}&b=0"]
)
async def test_nonsense_is_refused_without_asking_the_backend(query):
    async with both() as (url, backend, _):
        answer = await http_get(f"{url}/add?{query}")
    assert answer.status == 422
    assert backend.seen == []


async def test_a_fault_of_the_backend_is_500_and_tells_nothing():
    async with both() as (url, _, _):
        answer = await http_get(f"{url}/add?a=1003&b=0")
    assert answer.status == 500
    assert "hunter2" not in answer.body


async def test_a_backend_that_is_too_slow_is_504_and_its_call_is_cancelled():
    async with both(GRPC_CLIENT_TIMEOUT_SECONDS=0.3) as (url, backend, _):
        answer = await http_get(f"{url}/add?a=1004&b=0")
        await backend.cancelled.wait()
    assert answer.status == 504


async def test_a_dead_backend_is_502_until_it_is_back():
    backend = Backend()
    async with run_server(backend_server(backend), enable_auth=False) as server:
        port = server.port
    async with api(f"localhost:{port}", GRPC_CLIENT_BREAKER_FAILURES=0) as url:
        dead = await http_get(f"{url}/add?a=3&b=5")
        async with run_server(backend_server(backend), enable_auth=False, port=port):
            alive = dead
            while alive.status == 502:  # until the channel tries to connect again
                alive = await http_get(f"{url}/add?a=3&b=5")
    assert dead.status == 502
    assert str(port) not in dead.body
    assert (alive.status, json.loads(alive.body)) == (200, {"result": 8})


async def test_the_correlation_id_goes_through_and_comes_back():
    async with both() as (url, backend, _):
        given = await http_get(f"{url}/add?a=1&b=1", {"X-Correlation-ID": "abc-1"})
        made = await http_get(f"{url}/add?a=1&b=1")
    assert given.headers["x-correlation-id"] == "abc-1"
    assert backend.seen == ["abc-1", made.headers["x-correlation-id"]]


async def test_many_at_once_each_get_their_own_answer():
    async with both() as (url, _, _):
        answers = await asyncio.gather(*(http_get(f"{url}/add?a={n}&b=1") for n in range(50)))
    assert [json.loads(answer.body) for answer in answers] == [{"result": n + 1} for n in range(50)]


async def test_metrics_count_the_calls_as_document_a_greps_them():
    async with both(program) as (url, _, _):
        await http_get(f"{url}/add?a=1&b=1")
        answer = await http_get(f"{url}/metrics")
    lines = [line for line in answer.body.splitlines() if "mysingle_grpc" in line]
    assert any(
        line.startswith("mysingle_grpc_client_handled_total{") and line.endswith("} 1.0")
        for line in lines
    )


async def test_the_demo_counts_what_is_wrong(monkeypatch):
    from api_service.demo import main

    async with both() as (url, _, _):
        monkeypatch.setenv("API_SERVICE_HTTP_URL", url)
        walk = Walk()
        await main(walk)
    # This backend adds anything, so protobuf refuses the sum that the demo expects to be refused.
    assert (walk.steps, walk.wrong) == (5, 1)


async def test_a_wrong_setting_is_one_line_and_exit_code_1():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "api_service.app:app", "--port", "0"),
        cwd=HERE,
        env={**os.environ, "GRPC_CLIENT_TIMEOUT_SECONDS": "soon"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert len(error.decode().strip().splitlines()) == 1
    assert "GRPC_CLIENT_TIMEOUT_SECONDS" in error.decode()
