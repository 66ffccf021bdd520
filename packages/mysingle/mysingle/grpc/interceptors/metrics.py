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

    def for_method(self, method: Method) -> Interceptor:
        """The step with the method's series, which are there before its first call."""
        return _OfMethod(self._metrics.of(method))


class _OfMethod(Interceptor):
    def __init__(self, metrics: MethodMetrics) -> None:
        self._metrics = metrics

    def before(self, call: CallContext) -> None:
        """The call began."""
        metrics = self._metrics
        metrics.started()
        call.on_messages(metrics.received, metrics.sent)

    def after(self, call: CallContext, outcome: Outcome) -> None:
        """The call ended."""
        self._metrics.ended(outcome.code, time.perf_counter() - call.started)
