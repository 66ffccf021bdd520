"""math_service over real connections: in this process, and as the program of document E."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest

from math_service.core import INT32_MAX, INT32_MIN, add
from math_service.server import MathServer
from mysingle.cli.walk import Walk
from mysingle.grpc.errors import GrpcCallError
from mysingle.testing import connect, run_server
from shared_protos import math_pb2, math_pb2_grpc

HERE = Path(__file__).parents[1]
USER = (("user-id", "alice"),)


@pytest.mark.parametrize(
    ("a", "b"), [(3, 5), (-3, 3), (0, 0), (INT32_MAX, 0), (INT32_MIN, INT32_MAX)]
)
async def test_it_adds(a, b):
    async with run_server(MathServer) as server, connect(server) as channel:
        stub = math_pb2_grpc.MathServiceStub(channel)
        reply = await stub.Add(math_pb2.AddRequest(a=a, b=b), metadata=USER)
    assert reply.result == a + b


@pytest.mark.parametrize(("a", "b"), [(INT32_MAX, 1), (INT32_MIN, -1), (INT32_MIN, INT32_MIN)])
async def test_a_sum_that_does_not_fit_is_out_of_range(a, b):
    async with run_server(MathServer) as server, connect(server) as channel:
        stub = math_pb2_grpc.MathServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Add(math_pb2.AddRequest(a=a, b=b), metadata=USER)
    error = GrpcCallError(caught.value)
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert str(a + b) in error.message
    assert set(error.violations) == {"a", "b"}
    assert error.reason == "SUM_OUT_OF_RANGE"


def test_the_core_knows_nothing_of_grpc():
    with pytest.raises(OverflowError):
        add(INT32_MAX, 1)


async def test_it_asks_for_a_user():
    async with run_server(MathServer) as server, connect(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await math_pb2_grpc.MathServiceStub(channel).Add(math_pb2.AddRequest(a=1, b=1))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
async def program():
    """`python -m math_service.server`, started as document E does, on a free port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "math_service.server",
        cwd=HERE,
        env={**os.environ, "GRPC_SERVER_PORT": "0", "GRPC_METRICS_PORT": "0", "REDIS_URL": ""},
        stdout=asyncio.subprocess.PIPE,
    )
    said = {}
    while not {"listening", "metrics"} <= said.keys():
        line = (await process.stdout.readline()).decode()
        assert line, "it ended before it served"
        if line.startswith("[math-service] gRPC listening on "):
            said["listening"] = line.split()[-1]
        elif line.startswith("[math-service] metrics on "):
            said["metrics"] = line.split()[-1]
    try:
        yield said
    finally:
        process.terminate()
        assert (await process.communicate(), process.returncode)[1] == 0


async def test_the_client_of_document_e_works_as_written(program):
    async with grpc.aio.insecure_channel(program["listening"]) as channel:
        stub = math_pb2_grpc.MathServiceStub(channel)
        resp = await stub.Add(math_pb2.AddRequest(a=3, b=5))
    assert resp.result == 8


async def test_the_demo_finds_every_answer_right(program, monkeypatch):
    from math_service.demo import main

    monkeypatch.setenv("MATH_SERVICE_GRPC_TARGET", program["listening"])
    monkeypatch.setenv("MATH_SERVICE_METRICS_URL", program["metrics"])
    walk = Walk()
    await main(walk)
    assert (walk.steps, walk.wrong) == (4, 0)


async def test_the_demo_notices_a_dead_service(monkeypatch):
    from math_service.demo import main

    monkeypatch.setenv("MATH_SERVICE_GRPC_TARGET", "localhost:1")
    walk = Walk()
    await main(walk)
    assert walk.wrong == walk.steps > 0


async def test_a_port_in_use_is_one_line_and_exit_code_1():
    async with run_server(MathServer) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "math_service.server",
            cwd=HERE,
            env={**os.environ, "GRPC_SERVER_PORT": str(server.port)},
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate()
    assert process.returncode == 1
    assert str(server.port) in error.decode()
    assert "Traceback" not in error.decode()
