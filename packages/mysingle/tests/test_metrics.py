"""Metrics of served calls, the endpoint, and several processes."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo import SERVICE, SHAPES, Echo, EchoClient, add_echo_to_server
from prometheus_client import REGISTRY

from mysingle.core.errors import StartError
from mysingle.grpc._metrics import CODE_NAMES, metrics_of, render
from mysingle.grpc._metrics_endpoint import start_metrics_server
from mysingle.testing import connect, run_server, server_of

ALICE = (("user-id", "alice"),)
TYPES = dict(zip(SHAPES, ("unary", "server_stream", "client_stream", "bidi_stream"), strict=True))


@asynccontextmanager
async def serving(prefix: str, echo: Echo, **overrides: Any) -> AsyncIterator[EchoClient]:
    server_class = server_of(lambda server: add_echo_to_server(echo, server))
    async with run_server(server_class, metrics_prefix=prefix, **overrides) as server:
        async with connect(server) as channel:
            yield EchoClient(channel)


def sample(prefix: str, name: str, method: str, **labels: str) -> float | None:
    labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_type": TYPES[method], **labels}
    return REGISTRY.get_sample_value(f"{prefix}grpc_server_{name}", labels)


async def ended(echo: Echo) -> None:
    """Waits until a hanging call is over; its last steps run before anybody else's turn."""
    while await echo.ended.get() != "hang":  # streams that failed before have said so as well
        pass


def test_codes_are_spelled_as_in_go() -> None:
    assert {CODE_NAMES[code] for code in grpc.StatusCode} == {
        *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
        *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition"),
        *("Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss"),
        "Unauthenticated",
    }


@pytest.mark.parametrize(
    ("shape", "sent", "received"),
    [("Unary", 1, 1), ("ServerStream", 2, 1), ("ClientStream", 1, 2), ("Bidi", 2, 2)],
)
async def test_what_is_counted_of_a_call(shape: str, sent: int, received: int) -> None:
    prefix = f"served_{shape}_".lower()
    texts = ["a", "b"] if shape in ("ClientStream", "Bidi") else ["a"]
    async with serving(prefix, Echo()) as client:
        await client.texts(shape, *texts, metadata=ALICE)
    assert sample(prefix, "started_total", shape) == 1
    assert sample(prefix, "handled_total", shape, grpc_code="OK") == 1
    assert sample(prefix, "msg_sent_total", shape) == sent
    assert sample(prefix, "msg_received_total", shape) == received
    assert sample(prefix, "handling_seconds_count", shape) == 1
    assert sample(prefix, "in_flight", shape) == 0


@pytest.mark.parametrize("shape", SHAPES)
async def test_codes_of_calls_that_fail(shape: str) -> None:
    prefix = f"failed_{shape}_".lower()
    echo = Echo()
    async with serving(prefix, echo) as client:
        await client.error(shape, "abort:", metadata=ALICE)
        await client.error(shape, "raise:secret", metadata=ALICE)
        await client.error(shape, "a")
        await client.error(shape, "hang:", metadata=ALICE, timeout=0.2)
        await ended(echo)
        echo.entered.clear()
        call = client.call(shape, "hang:", metadata=ALICE)
        await echo.entered.wait()
        assert sample(prefix, "in_flight", shape) == 1
        call.cancel()
        await ended(echo)
    for code in ("NotFound", "Internal", "Unauthenticated", "DeadlineExceeded", "Canceled"):
        assert sample(prefix, "handled_total", shape, grpc_code=code) == 1, code
    assert sample(prefix, "started_total", shape) == 5
    assert sample(prefix, "handling_seconds_count", shape) == 5
    assert sample(prefix, "in_flight", shape) == 0


async def test_series_are_there_before_the_first_call() -> None:
    async with serving("early_", Echo()):
        for shape in SHAPES:
            assert sample("early_", "started_total", shape) == 0
            assert sample("early_", "handled_total", shape, grpc_code="OK") == 0


async def test_concurrent_calls_are_each_counted_once() -> None:
    async with serving("many_", Echo()) as client:
        await asyncio.gather(*(client.texts("Unary", "a", metadata=ALICE) for _ in range(200)))
    assert sample("many_", "handled_total", "Unary", grpc_code="OK") == 200
    assert sample("many_", "in_flight", "Unary") == 0


async def test_an_empty_prefix_gives_the_stock_names() -> None:
    async with serving("", Echo()) as client:
        await client.texts("Unary", "a", metadata=ALICE)
    assert sample("", "handled_total", "Unary", grpc_code="OK") == 1


async def test_servers_of_one_process_share_their_metrics() -> None:
    for expected in (1, 2):
        async with serving("shared_", Echo()) as client:
            await client.texts("Unary", "a", metadata=ALICE)
        assert sample("shared_", "handled_total", "Unary", grpc_code="OK") == expected
    assert metrics_of("shared_", "server") is metrics_of("shared_", "server")


async def test_calls_beyond_the_limit_are_counted() -> None:
    async with serving("limited_", Echo(), rate_limit_max_requests=1) as client:
        await client.texts("Unary", "a", metadata=ALICE)
        await client.error("Unary", "a", metadata=ALICE)
    assert sample("limited_", "limited_total", "Unary") == 1
    assert sample("limited_", "handled_total", "Unary", grpc_code="ResourceExhausted") == 1


async def test_switched_off_nothing_is_counted() -> None:
    async with serving("off_", Echo(), enable_metrics=False) as client:
        await client.texts("Unary", "a", metadata=ALICE)
    assert sample("off_", "started_total", "Unary") is None


# -- The endpoint -------------------------------------------------------------------------------


def get(port: int, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def test_the_endpoint_follows_readiness() -> None:
    ready: list[bool] = [False]
    server = start_metrics_server(0, ready=lambda: ready[0], host="127.0.0.1")
    try:
        assert get(server.port, "/healthz")[0] == 200
        assert get(server.port, "/readyz")[0] == 503
        ready[0] = True
        assert get(server.port, "/readyz")[0] == 200
        ready.clear()  # the check itself fails now
        assert get(server.port, "/readyz")[0] == 503
        ready.append(True)
        assert get(server.port, "/readyz")[0] == 200
        status, kind, body = get(server.port, "/metrics?name[]=x")
        assert (status, kind) == (200, render()[1])
        assert "python_info" in body
        assert get(server.port, "/other")[0] == 404
    finally:
        server.close()


def test_a_scraper_that_hangs_up_is_not_worth_a_traceback(capfd: Any) -> None:
    asked, gone, noted = threading.Event(), threading.Event(), threading.Event()

    def ready() -> bool:
        asked.set()
        return gone.wait(20)

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noted.set()

    logger = logging.getLogger("mysingle.http")
    handler, level = Noted(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    server = start_metrics_server(0, ready=ready, host="127.0.0.1")
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as rude:
            # Closed with a reset, so that the answer meets an error.
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert asked.wait(20)
        gone.set()
        assert noted.wait(20)
        assert get(server.port, "/healthz")[0] == 200
    finally:
        server.close()
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert "Traceback" not in capfd.readouterr().err


def test_a_closed_port_is_free_and_a_used_one_is_one_clear_line() -> None:
    first = start_metrics_server(0, ready=lambda: True, host="127.0.0.1")
    port = first.port
    with pytest.raises(StartError) as caught:
        start_metrics_server(port, ready=lambda: True, host="127.0.0.1")
    text = str(caught.value)
    assert "\n" not in text
    assert str(port) in text
    assert "GRPC_METRICS_PORT" in text
    first.close()
    start_metrics_server(port, ready=lambda: True, host="127.0.0.1").close()


# -- Several processes --------------------------------------------------------------------------

WORKER = """
import sys
from mysingle.grpc._method import Method
from mysingle.grpc._metrics import metrics_of
import grpc
method = metrics_of("mysingle_", "server").of(Method("/a.B/C", False, False))
for _ in range(int(sys.argv[1])):
    method.started()
    method.ended(grpc.StatusCode.OK, 0.1)
method.started()
print("ready", flush=True)
sys.stdin.read()
"""

PARENT = """
import os, sys
from mysingle.grpc._metrics import mark_worker_dead, prepare_multiprocess, render
prepare_multiprocess(sys.argv[1])
for pid in sys.argv[2:]:
    mark_worker_dead(int(pid))
print(render()[0].decode())
"""


def test_workers_add_up_and_dead_ones_leave_no_calls_in_flight(tmp_path: Path) -> None:
    def totals(*dead: int) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", PARENT, str(tmp_path), *map(str, dead)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found = dict(
            line.rsplit(" ", 1) for line in done.stdout.splitlines() if line and line[0] != "#"
        )
        labels = 'grpc_method="C",grpc_service="a.B",grpc_type="unary"}'
        handled = 'mysingle_grpc_server_handled_total{grpc_code="OK",' + labels
        return found[handled], found.get("mysingle_grpc_server_in_flight{" + labels, "gone")

    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, count],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for count in ("2", "3")
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        assert totals() == ("5.0", "2.0")
    finally:
        for worker in workers:
            worker.communicate()
    assert totals(workers[0].pid) == ("5.0", "1.0")
