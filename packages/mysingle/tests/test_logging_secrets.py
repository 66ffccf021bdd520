"""What must not be readable in a log line, and what must not break one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mysingle.core._logging_secrets import mask
from mysingle.core.config import CommonSettings
from mysingle.core.context import RequestContext, _current
from mysingle.core.errors import ConfigError
from mysingle.core.logging import JsonFormatter, ReadableFormatter, configure_logging

FORMATTERS = (JsonFormatter("s"), ReadableFormatter())
KEY = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"


def record(message: str, *arguments: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, "f", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


class Shy:
    """Has a secret in its text."""

    def __str__(self) -> str:
        return "token=hunter2"


class Rude:
    """Has no text at all."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["json", "readable"])
@pytest.mark.parametrize(
    "made",
    [
        record("got %s", {"password": "hunter2", "a": 1}),
        record('{"password": "hunter2"}'),
        record('{"body": "{\\"password\\": \\"hunter2\\"}"}'),
        record("authorization: Basic hunter2"),
        record("%s", (("authorization", "Basic hunter2"),)),
        record("Cookie: a=1; sid=hunter2"),
        record("access_token=hunter2 more"),
        record("client_secret_value = hunter2"),
        record("X-API-Key: hunter2"),
        record("password=a,hunter2"),
        record('password="two words hunter2"'),
        record("redis://:hunter2@host:1/0 is away"),
        record("postgresql://bob:hunter2@host/db"),
        record(KEY),
        record("m", password="hunter2"),
        record("m", headers={"Authorization": "hunter2"}),
        record("m", deep={"a": [{"b": {"api_key": "hunter2"}}]}),
        record("m", metadata=(("authorization", "hunter2"), (b"cookie", b"hunter2"))),
        record("m", many=["Bearer hunter2"]),
        record("m", some=Shy()),
        record("m", some={Shy()}),
        record("m", raw=b"token=hunter2"),
    ],
    ids=str,
)
def test_no_secret_is_readable(formatter: logging.Formatter, made: logging.LogRecord) -> None:
    line = formatter.format(made)
    assert "hunter2" not in line
    assert "***" in line


@pytest.mark.parametrize(
    "text",
    [
        "serves math.MathService on localhost:50051",
        "see https://example.org/a?b=c",
        "the bearers of tokens",
        "alice@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


def test_long_text_is_masked_in_linear_time() -> None:
    # An expression that goes back at every position would not be done within the test's time.
    for piece in ("token ", "a-", "authorization", "://a", '"password', "-----BEGIN ", "secret_"):
        mask("token=x " + piece * 20_000)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {(1, 2): 3}, {1, 2}, b"\xff", Rude(), object(), "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_no_value_loses_the_line(value: object) -> None:
    for formatter in FORMATTERS:
        assert "kept" in formatter.format(record("kept", value=value))
    line = JsonFormatter("s").format(record("kept", value=value))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(line, parse_constant=refuse)["message"] == "kept"


def test_a_circle_does_not_lose_the_line() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for formatter in FORMATTERS:
        assert "kept" in formatter.format(record("kept", value=circle))


def test_extra_fields_cannot_pass_for_ours() -> None:
    token = _current.set(RequestContext(user_id="alice", correlation_id="c1", method="/a.B/C"))
    try:
        forged = record("m", level="ERROR", logger="y", user_id="mallory", timestamp="never")
        line = json.loads(JsonFormatter("s").format(forged))
    finally:
        _current.reset(token)
    assert (line["level"], line["logger"], line["user_id"]) == ("INFO", "x", "alice")
    assert line["extra_user_id"] == "mallory"
    assert line["timestamp"] != "never"


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[31m", "\x9b31m", "\x7f", "\u2028", "\x85"])
def test_controls_cannot_forge_a_line(control: str) -> None:
    for formatter in FORMATTERS:
        line = formatter.format(record(f"a{control}b", peer=f"c{control}d"))
        assert control not in line
        assert len(line.splitlines()) == 1
    back = json.loads(JsonFormatter("s").format(record(f"a{control}b")))
    assert back["message"] == f"a{control}b"


def test_an_exception_cannot_forge_a_readable_line() -> None:
    made = record("failed")
    try:
        raise ValueError("x\n12:00:00.000 ERROR   forged\x1b[31m\r13:00")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = ReadableFormatter().format(made)
    assert "\x1b" not in line
    assert "\r" not in line
    assert all(one.startswith("    ") for one in line.split("\n")[1:])


# -- Configuration ------------------------------------------------------------------------------

SCRIPT = """
import logging, sys
from pathlib import Path
from mysingle.core.config import CommonSettings
from mysingle.core.logging import configure_logging
own = logging.StreamHandler(sys.stdout)
if "own" in sys.argv:
    logging.getLogger().addHandler(own)
settings = CommonSettings(_env_file=None)
configure_logging(settings)
configure_logging(settings)
logging.getLogger("any.logger").info("once")
assert "own" not in sys.argv or own in logging.getLogger().handlers
"""


def run(*arguments: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    )
    return done.stdout, done.stderr


def test_twice_is_once_and_json_where_nobody_watches() -> None:
    out, err = run()
    assert out == ""
    [line] = err.splitlines()
    assert json.loads(line)["message"] == "once"


def test_the_console_can_be_readable() -> None:
    _, err = run(LOG_FORMAT="console")
    [line] = err.splitlines()
    assert line.endswith("any.logger  once")


def test_handlers_of_the_program_stay_and_are_the_only_console() -> None:
    assert run("own") == ("once\n", "")


def test_the_level_holds() -> None:
    assert run(LOG_LEVEL="ERROR") == ("", "")


def test_a_log_file_in_a_new_directory(tmp_path: Path) -> None:
    run(LOG_FILE=str(tmp_path / "new" / "deep" / "app.log"))
    run(LOG_FILE=str(tmp_path / "new" / "deep" / "app.log"))
    lines = (tmp_path / "new" / "deep" / "app.log").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["once", "once"]


def test_a_log_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    settings = CommonSettings(_env_file=None, LOG_FILE=tmp_path)
    before = list(logging.getLogger().handlers)
    with pytest.raises(ConfigError, match=r"^LOG_FILE: cannot write .*\Z"):
        configure_logging(settings)
    assert logging.getLogger().handlers == before


WRITER = """
import logging, sys
from mysingle.core.config import CommonSettings
from mysingle.core.logging import configure_logging

configure_logging(CommonSettings(_env_file=None, LOG_FILE=sys.argv[1]))
for number in range(500):
    logging.getLogger("mysingle.grpc").info("%s %d %s", sys.argv[2], number, "x" * 500)
"""


def test_processes_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name], stderr=subprocess.DEVNULL)
        for name in ("a", "b", "c")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    messages = [json.loads(line)["message"].split()[:2] for line in path.read_text().splitlines()]
    assert sorted(messages) == sorted([n, str(i)] for n in "abc" for i in range(500))
