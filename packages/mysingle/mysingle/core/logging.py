"""Structured logs: JSON lines for machines, one readable line for people.

Every record, whatever logger it comes from, carries the ids of the call it belongs to.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mysingle.core.config import CommonSettings
from mysingle.core.context import current_or_none
from mysingle.core.errors import ConfigError

__all__ = ["JsonFormatter", "ReadableFormatter", "configure_logging"]

_OURS: Final = "_mysingle"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_KEY: Final = re.compile(
    r"authorization|token|password|passwd|secret|cookie|api[-_]?key|private[-_]?key", re.IGNORECASE
)
_SECRET_TEXT: Final = re.compile(
    r"(?i:(?P<word>bearer\s+|(?:password|passwd|secret|token|api[-_]?key)\s*[=:]\s*))"
    r"[^\s,;\"'\\]+"
    r"|eyJ[\w-]{5,}\.[\w-]+\.[\w-]*"
)
_SECRET_HINTS: Final = ("bearer", "password", "passwd", "secret", "token", "api", "eyj")
_MASK: Final = "***"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def configure_logging(settings: CommonSettings) -> None:
    """Sends logs to the console and, if `LOG_FILE` is set, to that file as JSON lines.

    Calling it again changes nothing but the level. Handlers that the program installed on the
    root logger stay, and then no console handler of ours is added beside them.

    Raises:
        ConfigError: `LOG_FILE` cannot be written.
    """
    root = logging.getLogger()
    logging.getLogger("mysingle").setLevel(settings.LOG_LEVEL)
    ours = [handler for handler in root.handlers if getattr(handler, _OURS, False)]
    if ours:
        return
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(settings.LOG_LEVEL)
    if not root.handlers:
        _install(root, logging.StreamHandler(sys.stderr), _console_formatter(settings))
    if settings.LOG_FILE is not None:
        _install(root, _file_handler(settings.LOG_FILE), JsonFormatter(settings.SERVICE_NAME))


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
    """One JSON object a line: timestamp, level, logger, message, service, ids, extra fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break in it: JSON escapes those."""
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "message": _mask(record.getMessage()),
            "service": self._service,
        }
        _add_ids(fields)
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                fields[key] = _clean(key, value)
        if record.exc_info:
            fields["exception"] = _mask(self.formatException(record.exc_info))
        return _encode(fields)


class ReadableFormatter(logging.Formatter):
    """`12:00:00.000 INFO  mysingle.grpc  text  key=value …`, for people in development."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters in it are escaped, so that a value cannot forge one."""
        ids: dict[str, Any] = {}
        _add_ids(ids)
        extra = {
            **ids,
            **{
                key: _clean(key, value)
                for key, value in record.__dict__.items()
                if key not in _STANDARD
            },
        }
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        pairs = "".join(f"  {key}={value}" for key, value in extra.items() if value != "")
        line = (
            f"{time}.{record.msecs:03.0f} {record.levelname:<7} {record.name}  "
            f"{_mask(record.getMessage())}{pairs}"
        )
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += "\n" + _mask(self.formatException(record.exc_info))
        return line


def _add_ids(fields: dict[str, Any]) -> None:
    context = current_or_none()
    if context is not None:
        fields["correlation_id"] = context.correlation_id
        fields["user_id"] = context.user_id
        fields["method"] = context.method


def _clean(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key):
        return _MASK
    return _mask(value) if isinstance(value, str) else value


def _mask(text: str) -> str:
    # Few lines hold a secret, and looking for these words is a hundred times faster than the
    # expression, which tries every position.
    lowered = text.lower()
    if not any(hint in lowered for hint in _SECRET_HINTS):
        return text
    return _SECRET_TEXT.sub(lambda found: (found["word"] or "") + _MASK, text)
