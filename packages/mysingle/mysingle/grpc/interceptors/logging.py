"""Step 5: one line for each call."""

from __future__ import annotations

import itertools
import logging
import time

import grpc

from mysingle.core.config import CommonSettings
from mysingle.grpc._context import CallContext
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["LoggingInterceptor"]

_log = logging.getLogger("mysingle.grpc")
_Code = grpc.StatusCode
_OUR_FAULT = frozenset({_Code.INTERNAL, _Code.UNKNOWN, _Code.DATA_LOSS})
_WORTH_A_LOOK = frozenset(
    {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.RESOURCE_EXHAUSTED, _Code.UNIMPLEMENTED}
)
_QUIET_SERVICES = frozenset({"grpc.health.v1.Health"})
_UNEVENTFUL = frozenset({_Code.OK, _Code.CANCELLED})


class LoggingInterceptor(Interceptor):
    """Writes method, code, duration, peer and ids of each call to the logger `mysingle.grpc`.

    What the caller did wrong is `INFO`, what may need a look `WARNING`, our own faults `ERROR`
    with the exception. Health checks that pass are `DEBUG`, and watches too, which are
    cancelled whenever the watcher leaves. `GRPC_LOG_SAMPLE` is the share of the calls that
    ended well and are logged, evenly spread; all others always are.
    """

    def __init__(self, settings: CommonSettings) -> None:
        self._sample = settings.GRPC_LOG_SAMPLE
        self._count = itertools.count(1)
        self._first = logging.LogRecord(_log.name, logging.INFO, __file__, 0, "", (), None)

    def after(self, call: CallContext, outcome: Outcome) -> None:
        """Writes the line."""
        code = outcome.code
        level = logging.INFO if code is _Code.OK else _level(code)
        if code in _UNEVENTFUL and call.method.service in _QUIET_SERVICES:
            level = logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        if code is _Code.OK and self._sample < 1.0 and not self._is_sampled():
            return
        fields: dict[str, object] = {
            "grpc_type": call.method.grpc_type,
            "code": code.name,
            "duration_ms": round((time.perf_counter() - call.started) * 1000, 3),
            "peer": call.peer(),
        }
        if code is not _Code.OK:
            fields["error"] = outcome.message
        error = outcome.error if code in _OUR_FAULT else None
        record = self._record(level, call.method.full_name, error)
        record.__dict__.update(fields)
        _log.handle(record)

    def refused(self, call: CallContext, outcome: Outcome) -> None:
        """A refused call is a call too."""
        self.after(call, outcome)

    def _record(self, level: int, message: str, error: BaseException | None) -> logging.LogRecord:
        """What `Logger.makeRecord` would make, without looking again for what never changes.

        Logger.log() walks the stack for the line that logs, always the same one, and a record
        asks for names of process and thread.
        """
        exc_info = (type(error), error, error.__traceback__) if error is not None else None
        factory = logging.getLogRecordFactory()
        if factory is not logging.LogRecord:  # it may add what the program's formatters expect
            return factory(_log.name, level, __file__, 0, message, (), exc_info)
        first = self._first
        now = time.time()
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__.update(
            first.__dict__,
            levelno=level,
            levelname=logging.getLevelName(level),
            msg=message,
            exc_info=exc_info,
            created=now,
            msecs=now % 1 * 1000,
            relativeCreated=first.relativeCreated + (now - first.created) * 1000,
        )
        return record

    def _is_sampled(self) -> bool:
        n = next(self._count)
        return int(n * self._sample) != int((n - 1) * self._sample)


def _level(code: grpc.StatusCode) -> int:
    if code in _OUR_FAULT:
        return logging.ERROR
    return logging.WARNING if code in _WORTH_A_LOOK else logging.INFO
