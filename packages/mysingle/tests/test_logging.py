"""Log lines: fields, secrets, forgeries, sampling."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from echo import Echo, EchoClient, add_echo_to_server

from mysingle.core.context import RequestContext, _current
from mysingle.core.logging import JsonFormatter, ReadableFormatter
from mysingle.testing import connect, run_server, server_of

ALICE = (("user-id", "alice"),)


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_json_fields() -> None:
    token = _current.set(RequestContext(user_id="alice", correlation_id="c1", method="/a.B/C"))
    try:
        line = json.loads(JsonFormatter("svc").format(record("hi", code="OK", n=1)))
    finally:
        _current.reset(token)
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "x",
        "message": "hi",
        "service": "svc",
        "correlation_id": "c1",
        "user_id": "alice",
        "method": "/a.B/C",
        "code": "OK",
        "n": 1,
    }


def test_secrets_are_masked() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
    for formatter in (JsonFormatter("s"), ReadableFormatter()):
        line = formatter.format(
            record(
                f"Bearer abc.def got {jwt} password=hunter2",
                authorization="Basic hunter2",
                note=f"token: hunter2 {jwt}",
            )
        )
        for secret in ("abc.def", jwt, "hunter2"):
            assert secret not in line


def test_an_exception_is_one_field_and_masked() -> None:
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    line = JsonFormatter("s").format(made)
    assert "ValueError" in json.loads(line)["exception"]
    assert "hunter2" not in line


def test_a_value_cannot_forge_a_line() -> None:
    for formatter in (JsonFormatter("s"), ReadableFormatter()):
        line = formatter.format(record("a\nb", peer="x\r\n12:00 ERROR forged\x1b[31m"))
        assert "\n" not in line
        assert "\r" not in line
        assert "\x1b" not in line


async def test_sampling_keeps_failures(caplog: Any) -> None:
    server_class = server_of(lambda server: add_echo_to_server(Echo(), server))
    with caplog.at_level(logging.INFO, "mysingle.grpc"):
        async with (
            run_server(server_class, log_sample=0.1) as server,
            connect(server) as channel,
        ):
            client = EchoClient(channel)
            for _ in range(20):
                await client.texts("Unary", "a", metadata=ALICE)
            for _ in range(3):
                await client.error("Unary", "raise:value", metadata=ALICE)
            await client.error("Unary", "a")
    codes = [one.code for one in caplog.records if hasattr(one, "code")]
    assert codes.count("OK") == 2
    assert codes.count("INVALID_ARGUMENT") == 3
    assert codes.count("UNAUTHENTICATED") == 1
