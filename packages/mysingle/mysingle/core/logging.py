"""Structured logs: JSON lines for machines, one readable line for people.

Every record, whatever logger it comes from, carries the ids of the call it belongs to.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from mysingle.core._logging_secrets import clean, is_suspect, mask
from mysingle.core.config import CommonSettings
from mysingle.core.context import current_or_none
from mysingle.core.errors import ConfigError

__all__ = ["JsonFormatter", "ReadableFormatter", "configure_logging"]

_OURS: Final = "_mysingle"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# What JSON may leave as it is, but terminals and line splitters obey.
_CONTROLS: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


# Both know plain values only; whatever else is in a record goes through clean() first. orjson is
# an order of magnitude faster, and refuses what the other one takes: integers beyond 64 bits.
_PLAIN: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_encode_cleaned: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode


def _encode(fields: dict[str, Any]) -> str:
    return orjson.dumps(fields, option=_PLAIN).decode()


def configure_logging(settings: CommonSettings) -> None:
    """Sends logs to the console and, if `LOG_FILE` is set, to that file as JSON lines.

    Calling it again changes the level of `mysingle` and adds a `LOG_FILE` that was not open yet,
    nothing else. Handlers that the program installed on the root logger stay, and then no
    console handler of ours is added beside them.

    Raises:
        ConfigError: `LOG_FILE` cannot be written.
    """
    root = logging.getLogger()
    logging.getLogger("mysingle").setLevel(settings.LOG_LEVEL)
    ours = [handler for handler in root.handlers if getattr(handler, _OURS, False)]
    if not ours and root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(settings.LOG_LEVEL)
    if not root.handlers:
        _install(root, logging.StreamHandler(sys.stderr), _console_formatter(settings))
    path = settings.LOG_FILE.absolute() if settings.LOG_FILE is not None else None
    opened = {handler.path for handler in ours if isinstance(handler, _AppendHandler)}
    if path is not None and path not in opened:
        _install(root, _file_handler(path), JsonFormatter(settings.SERVICE_NAME))


def _install(root: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setFormatter(formatter)
    setattr(handler, _OURS, True)
    root.addHandler(handler)


def _console_formatter(settings: CommonSettings) -> logging.Formatter:
    form = settings.LOG_FORMAT
    if form == "auto":
        readable = settings.ENVIRONMENT == "development" and sys.stderr.isatty()
        form = "console" if readable else "json"
    return ReadableFormatter() if form == "console" else JsonFormatter(settings.SERVICE_NAME)


class _AppendHandler(logging.Handler):
    """Appends each line with one `write`, so that several processes can share the file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._fd, (self.format(record) + "\n").encode("utf-8", "replace"))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


def _file_handler(path: Path) -> logging.Handler:
    try:
        return _AppendHandler(path)
    except OSError as error:
        raise ConfigError(f"LOG_FILE: cannot write {path}: {error.strerror}") from None


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, logger, message, service, ids, extra fields.

    An `extra` field that has the name of one of these is called `extra_…`.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break or a secret in it."""
        fields: dict[str, Any] = {
            "timestamp": f"{_utc(int(record.created))}.{int(record.msecs):03d}+00:00",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
        }
        _add_ids(fields)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        extra = record.__dict__
        for key in sorted(extra.keys() - _STANDARD):
            fields[f"extra_{key}" if key in fields else key] = extra[key]
        try:
            line = _encode(fields)
            suspect = is_suspect(line)
        except (TypeError, ValueError, RecursionError):
            suspect = True
        if suspect:
            line = _encode_cleaned({key: clean(key, value) for key, value in fields.items()})
        if line.isascii() and "\x7f" not in line:
            return line
        return _CONTROLS.sub(_escape, line)


class ReadableFormatter(logging.Formatter):
    """`12:00:00.000 INFO    mysingle.grpc  text  key=value …`, for people in development."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters in it are escaped, so that a value cannot forge one.

        The lines of a traceback are indented, for the same reason.
        """
        fields: dict[str, Any] = {}
        _add_ids(fields)
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                fields[f"extra_{key}" if key in fields else key] = value
        now = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = "".join(
            f"  {key}={clean(key, value)}" for key, value in fields.items() if value != ""
        )
        line = _printable(
            f"{now}.{int(record.msecs):03d} {record.levelname:<7} {record.name}  "
            f"{mask(record.getMessage())}{pairs}"
        )
        for block in (
            self.formatException(record.exc_info) if record.exc_info else "",
            record.stack_info or "",
        ):
            # Split at line feeds only, as terminals do; whatever else splits is escaped.
            for one in mask(block).split("\n") if block else ():
                line += "\n    " + _printable(one)
        return line


@lru_cache(maxsize=4)
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _add_ids(fields: dict[str, Any]) -> None:
    context = current_or_none()
    if context is not None:
        fields["correlation_id"] = context.correlation_id
        fields["user_id"] = context.user_id
        fields["method"] = context.method
    # Not loaded, or nothing in its context: there is no span either.
    otel = sys.modules.get("opentelemetry.context")
    if otel is not None and otel.get_current():
        span = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
        if span.is_valid:
            fields["trace_id"] = f"{span.trace_id:032x}"
            fields["span_id"] = f"{span.span_id:016x}"
