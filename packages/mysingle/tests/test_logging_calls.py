"""The line of each call: level, fields, and what it leaves out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from echo import SHAPES, Echo, EchoClient, add_echo_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mysingle.core.logging import JsonFormatter
from mysingle.testing import connect, run_server, server_of

ALICE = (("user-id", "alice"), ("correlation-id", "c1"))


class Lines(logging.Handler):
    """What JSON lines of calls would hold, formatted inside of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter("svc"))
        self.calls: list[dict[str, Any]] = []
        self._arrived: asyncio.Queue[None] = asyncio.Queue()

    async def until(self, count: int) -> None:
        """Waits for so many lines: a cancelled call may outlive even the stop of its server."""
        while len(self.calls) < count:
            await self._arrived.get()

    def emit(self, record: logging.LogRecord) -> None:
        line = json.loads(self.format(record))
        if "grpc_type" in line:
            self.calls.append(line)
            self._arrived.put_nowait(None)


@asynccontextmanager
async def logged(
    echo: Echo, level: int = logging.DEBUG, **overrides: Any
) -> AsyncIterator[tuple[Any, Lines]]:
    logger = logging.getLogger("mysingle.grpc")
    handler, before = Lines(), logger.level
    server_class = server_of(lambda server: add_echo_to_server(echo, server))
    async with run_server(server_class, **overrides) as server, connect(server) as channel:
        logger.addHandler(handler)
        logger.setLevel(level)
        try:
            yield channel, handler
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)


@pytest.mark.parametrize("shape", SHAPES)
async def test_one_line_for_each_call(shape: str) -> None:
    async with logged(Echo()) as (channel, lines):
        await EchoClient(channel).texts(shape, "a", metadata=ALICE)
    [line] = lines.calls
    assert line.pop("duration_ms") > 0
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    del line["timestamp"]
    kinds = ("unary", "server_stream", "client_stream", "bidi_stream")
    assert line == {
        "level": "INFO",
        "logger": "mysingle.grpc",
        "message": f"/test.Echo/{shape}",
        "service": "svc",
        "correlation_id": "c1",
        "user_id": "alice",
        "method": f"/test.Echo/{shape}",
        "grpc_type": dict(zip(SHAPES, kinds, strict=True))[shape],
        "code": "OK",
    }


@pytest.mark.parametrize(
    ("what", "code", "level"),
    [
        ("raise:value", "INVALID_ARGUMENT", "INFO"),
        ("raise:key", "NOT_FOUND", "INFO"),
        ("raise:timeout", "DEADLINE_EXCEEDED", "WARNING"),
        ("raise:unimplemented", "UNIMPLEMENTED", "WARNING"),
        ("code:", "DATA_LOSS", "ERROR"),
        ("raise:secret", "INTERNAL", "ERROR"),
    ],
)
async def test_levels_follow_whose_fault_it_is(what: str, code: str, level: str) -> None:
    async with logged(Echo()) as (channel, lines):
        await EchoClient(channel).error("Unary", what, metadata=ALICE)
    [line] = lines.calls
    assert (line["code"], line["level"]) == (code, level)
    assert line["error"]


async def test_the_traceback_of_our_own_faults_and_of_no_other() -> None:
    async with logged(Echo()) as (channel, lines):
        await EchoClient(channel).error("Unary", "raise:secret", metadata=ALICE)
        await EchoClient(channel).error("Unary", "raise:value", metadata=ALICE)
    ours, theirs = lines.calls
    assert "RuntimeError" in ours["exception"]
    assert "hunter2" not in ours["exception"]
    assert "exception" not in theirs


async def test_refused_and_cancelled_calls_have_their_lines() -> None:
    echo = Echo()
    async with logged(echo) as (channel, lines):
        client = EchoClient(channel)
        await client.error("Unary", "a", metadata=(("correlation-id", "c2"),))
        call = client.call("Unary", "hang:", metadata=ALICE)
        await echo.entered.wait()
        call.cancel()
        await lines.until(2)
    refused, cancelled = lines.calls
    assert (refused["code"], refused["correlation_id"]) == ("UNAUTHENTICATED", "c2")
    assert (cancelled["code"], cancelled["level"]) == ("CANCELLED", "INFO")


async def test_health_is_quiet_until_it_fails() -> None:
    async with logged(Echo()) as (channel, lines):
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
        await lines.until(2)
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        call = channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")
        assert (await call.code()).name == "INVALID_ARGUMENT"
    found = sorted(
        (line["method"].rpartition("/")[2], line["code"], line["level"]) for line in lines.calls
    )
    assert found == [
        ("Check", "INVALID_ARGUMENT", "INFO"),
        ("Check", "OK", "DEBUG"),
        ("Check", "OK", "DEBUG"),
        ("Watch", "CANCELLED", "DEBUG"),
    ]


async def test_health_takes_no_share_of_the_sample() -> None:
    async with logged(Echo(), logging.INFO, log_sample=0.5) as (channel, lines):
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(4):
            await EchoClient(channel).texts("Unary", "a", metadata=ALICE)
            await stub.Check(health_pb2.HealthCheckRequest())
    assert len(lines.calls) == 2


async def test_no_line_below_the_level() -> None:
    async with logged(Echo(), logging.WARNING) as (channel, lines):
        await EchoClient(channel).texts("Unary", "a", metadata=ALICE)
        await EchoClient(channel).error("Unary", "raise:timeout", metadata=ALICE)
    assert [line["code"] for line in lines.calls] == ["DEADLINE_EXCEEDED"]


async def test_records_come_from_the_programs_own_factory() -> None:
    standard = logging.getLogRecordFactory()

    def factory(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = standard(*arguments, **options)
        made.build = "b42"
        return made

    logging.setLogRecordFactory(factory)
    try:
        async with logged(Echo()) as (channel, lines):
            await EchoClient(channel).texts("Unary", "a", metadata=ALICE)
    finally:
        logging.setLogRecordFactory(standard)
    assert lines.calls[0]["build"] == "b42"
