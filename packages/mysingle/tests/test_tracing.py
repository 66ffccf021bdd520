"""Spans of served calls."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from echo import SHAPES, Echo, EchoClient, add_echo_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mysingle.core.config import CommonSettings
from mysingle.core.logging import JsonFormatter
from mysingle.grpc import _server
from mysingle.grpc._tracing import TracingInterceptor, _peer, configure_tracing
from mysingle.testing import connect, run_server, server_of

ALICE = (("user-id", "alice"),)
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def traced(
    monkeypatch: pytest.MonkeyPatch, echo: Echo
) -> AsyncIterator[tuple[Any, InMemorySpanExporter]]:
    """A channel to a server whose chain has the tracing step around it, and its spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    monkeypatch.setattr(_server, "tracing_step", lambda _: TracingInterceptor(provider))
    async with run_server(server_of(lambda s: add_echo_to_server(echo, s))) as server:
        async with connect(server) as channel:
            yield channel, exporter


async def test_a_span_for_each_shape_below_the_callers(monkeypatch: Any) -> None:
    async with traced(monkeypatch, Echo()) as (channel, exporter):
        for shape in SHAPES:
            sent = (*ALICE, ("traceparent", CALLER), ("correlation-id", "c1"))
            await EchoClient(channel).texts(shape, "a", metadata=sent)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {f"test.Echo/{shape}" for shape in SHAPES}
    for shape in SHAPES:
        span = spans[f"test.Echo/{shape}"]
        assert span.kind is trace.SpanKind.SERVER
        assert f"{span.context.trace_id:032x}" == CALLER.split("-")[1]
        assert f"{span.parent.span_id:016x}" == CALLER.split("-")[2]
        expected = {
            "rpc.system": "grpc",
            "rpc.service": "test.Echo",
            "rpc.method": shape,
            "rpc.grpc.status_code": 0,
            "enduser.id": "alice",
            "mysingle.correlation_id": "c1",
            "client.address": "127.0.0.1",
        }
        assert expected.items() <= dict(span.attributes).items()
        assert span.status.status_code is trace.StatusCode.UNSET


async def test_statuses_and_no_text_of_an_exception(monkeypatch: Any) -> None:
    async with traced(monkeypatch, Echo()) as (channel, exporter):
        client = EchoClient(channel)
        await client.error("Unary", "abort:", metadata=ALICE)
        await client.error("Unary", "raise:secret", metadata=ALICE)
        await client.error("Unary", "a")  # refused by a later step
    spans = exporter.get_finished_spans()
    assert [span.attributes["rpc.grpc.status_code"] for span in spans] == [5, 13, 16]
    assert [span.status.status_code.name for span in spans] == ["UNSET", "ERROR", "UNSET"]
    assert spans[1].attributes["error.type"] == "RuntimeError"
    assert "hunter2" not in "".join(span.to_json() for span in spans)


async def test_a_call_that_the_caller_leaves_ends_its_span(monkeypatch: Any) -> None:
    echo = Echo()
    async with traced(monkeypatch, echo) as (channel, exporter):
        call = EchoClient(channel).call("Unary", "hang:", metadata=ALICE)
        await echo.entered.wait()
        call.cancel()
        await echo.ended.get()
    [span] = exporter.get_finished_spans()  # the server has stopped, so the call is over
    assert span.attributes["rpc.grpc.status_code"] == 1


async def test_concurrent_calls_keep_their_own_traces(monkeypatch: Any) -> None:
    echo = Echo()
    ids = [f"{number:032x}" for number in range(1, 21)]
    async with traced(monkeypatch, echo) as (channel, exporter):
        calls = [
            EchoClient(channel).call(
                "Unary",
                "wait:",
                metadata=(*ALICE, ("traceparent", f"00-{one}-{1:016x}-01")),
            )
            for one in ids
        ]
        await echo.entered.wait()
        echo.release.set()
        for call in calls:
            await call
    assert sorted(f"{s.context.trace_id:032x}" for s in exporter.get_finished_spans()) == ids


async def test_log_lines_carry_the_trace(monkeypatch: Any) -> None:
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter("s").format(record)))

    handler = Lines()
    logger = logging.getLogger("mysingle.grpc")
    logger.addHandler(handler)
    try:
        async with traced(monkeypatch, Echo()) as (channel, exporter):
            sent = (*ALICE, ("traceparent", CALLER))
            await EchoClient(channel).texts("Unary", "a", metadata=sent)
    finally:
        logger.removeHandler(handler)
    [span] = exporter.get_finished_spans()
    [line] = [line for line in lines if line.get("code") == "OK"]
    assert line["trace_id"] == CALLER.split("-")[1]
    assert line["span_id"] == f"{span.context.span_id:016x}"


async def test_health_has_no_spans_and_a_bad_traceparent_no_effect(monkeypatch: Any) -> None:
    async with traced(monkeypatch, Echo()) as (channel, exporter):
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        sent = (*ALICE, ("traceparent", "nonsense"), ("data-bin", b"\xff"))
        await EchoClient(channel).texts("Unary", "a", metadata=sent)
    [span] = exporter.get_finished_spans()
    assert span.name == "test.Echo/Unary"
    assert span.parent is None


def test_addresses_of_peers() -> None:
    assert _peer("ipv4:10.0.0.1:5000") == {"client.address": "10.0.0.1", "client.port": 5000}
    assert _peer("ipv6:%5B::1%5D:5000") == {"client.address": "::1", "client.port": 5000}
    assert _peer("unix:/tmp/socket") == {}


def settings(**values: Any) -> CommonSettings:
    return CommonSettings(_env_file=None, **values)


def test_there_is_a_step_where_spans_are_collected_and_it_is_not_turned_off() -> None:
    program = """
from mysingle.core.config import CommonSettings
from mysingle.grpc._tracing import tracing_step
on = CommonSettings(_env_file=None)
print(tracing_step(on))
from opentelemetry import trace
print(tracing_step(on))
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
print(type(tracing_step(on)).__name__)
print(tracing_step(CommonSettings(_env_file=None, GRPC_ENABLE_TRACING=False)))
"""
    assert run(program).split() == ["None", "None", "TracingInterceptor", "None"]


def test_nothing_is_exported_unless_an_endpoint_is_set(monkeypatch: Any) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert configure_tracing(settings()) is False


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_endpoint_sets_the_provider_once() -> None:
    # In a process of its own: the provider is global and can be set only once.
    program = """
import os
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
from mysingle.core.config import CommonSettings
from mysingle.grpc._tracing import configure_tracing
s = CommonSettings(_env_file=None, SERVICE_NAME="svc")
first, second = configure_tracing(s), configure_tracing(s)
from opentelemetry import trace
print(first, second, trace.get_tracer_provider().resource.attributes["service.name"])
"""
    assert run(program) == "True False svc"


def test_without_the_packages_there_is_no_step() -> None:
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from mysingle.core.config import CommonSettings
from mysingle.grpc._tracing import tracing_step
print(tracing_step(CommonSettings(_env_file=None)))
"""
    assert run(program) == "None"
