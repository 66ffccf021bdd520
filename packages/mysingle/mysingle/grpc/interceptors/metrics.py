"""Step 1: counts calls and messages and measures time; it sees whatever ends a call."""

from __future__ import annotations

import time

from mysingle.core.config import CommonSettings
from mysingle.grpc._context import CallContext
from mysingle.grpc._method import Method
from mysingle.grpc._metrics import MethodMetrics, metrics_of
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["MetricsInterceptor"]


class MetricsInterceptor(Interceptor):
    """Feeds the `…grpc_server_…` metrics."""

    def __init__(self, settings: CommonSettings) -> None:
        self._metrics = metrics_of(settings.GRPC_METRICS_PREFIX, "server")
        self._of: dict[Method, MethodMetrics] = {}

    def prepare(self, method: Method) -> None:
        """Makes the series of a method before its first call, so that rates start at zero."""
        self._of[method] = self._metrics.of(method)

    def before(self, call: CallContext) -> None:
        """The call began."""
        metrics = self._of.get(call.method)
        if metrics is None:
            self.prepare(call.method)
            metrics = self._of[call.method]
        metrics.started()
        call.on_messages(metrics.received, metrics.sent)

    def after(self, call: CallContext, outcome: Outcome) -> None:
        """The call ended."""
        self._of[call.method].ended(outcome.code, time.perf_counter() - call.started)
