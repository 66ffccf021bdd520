"""Prometheus metrics, in the shape that gRPC dashboards of other languages know.

Names and labels are those of go-grpc-prometheus
(https://github.com/grpc-ecosystem/go-grpc-middleware), behind a prefix.
"""

from __future__ import annotations

import os
from functools import lru_cache

import grpc
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from mysingle.grpc._method import Method

__all__ = [
    "CODE_NAMES",
    "MethodMetrics",
    "Metrics",
    "mark_worker_dead",
    "metrics_of",
    "prepare_multiprocess",
    "render",
]

_METHOD_LABELS = ("grpc_type", "grpc_service", "grpc_method")
CODE_NAMES = {
    # Go's spelling: NOT_FOUND is NotFound, CANCELLED is Canceled, OK stays.
    code: {"OK": "OK", "CANCELLED": "Canceled"}.get(
        code.name, "".join(word.capitalize() for word in code.name.split("_"))
    )
    for code in grpc.StatusCode
}


class Metrics:
    """The metrics of one side, `server` or `client`, under one prefix."""

    def __init__(self, prefix: str, side: str) -> None:
        name = f"{prefix}grpc_{side}"
        self._started = Counter(f"{name}_started", f"Calls begun on the {side}.", _METHOD_LABELS)
        self._handled = Counter(
            f"{name}_handled", f"Calls ended on the {side}.", (*_METHOD_LABELS, "grpc_code")
        )
        self._received = Counter(
            f"{name}_msg_received", f"Messages received on the {side}.", _METHOD_LABELS
        )
        self._sent = Counter(f"{name}_msg_sent", f"Messages sent on the {side}.", _METHOD_LABELS)
        self._seconds = Histogram(
            f"{name}_handling_seconds", f"Duration of calls on the {side}.", _METHOD_LABELS
        )
        self._in_flight = Gauge(
            f"{name}_in_flight",
            f"Calls running on the {side}.",
            _METHOD_LABELS,
            multiprocess_mode="livesum",
        )
        if side == "server":
            self.cache_lookups = Counter(
                f"{name}_cache_lookups",
                "Look-ups in the cache by the tier that answered: l1, l2, miss.",
                ("service", "method", "tier"),
            )
            self.limited = Counter(
                f"{name}_limited", "Calls refused by the rate limit.", _METHOD_LABELS
            )

    def of(self, method: Method) -> MethodMetrics:
        """The series of one method, looked up once."""
        labels = (method.grpc_type, method.service, method.name)
        return MethodMetrics(
            self._started.labels(*labels),
            {
                code: self._handled.labels(*labels, CODE_NAMES[code])
                for code in (grpc.StatusCode.OK,)
            },
            self._handled,
            labels,
            self._received.labels(*labels),
            self._sent.labels(*labels),
            self._seconds.labels(*labels),
            self._in_flight.labels(*labels),
        )


class MethodMetrics:
    """The series of one method."""

    __slots__ = (
        "_by_code",
        "_handled",
        "_in_flight",
        "_labels",
        "_seconds",
        "_started",
        "received",
        "sent",
    )

    def __init__(
        self,
        started: Counter,
        by_code: dict[grpc.StatusCode, Counter],
        handled: Counter,
        labels: tuple[str, str, str],
        received: Counter,
        sent: Counter,
        seconds: Histogram,
        in_flight: Gauge,
    ) -> None:
        self._started = started
        self._by_code = by_code
        self._handled = handled
        self._labels = labels
        self.received = received.inc
        self.sent = sent.inc
        self._seconds = seconds
        self._in_flight = in_flight

    def started(self) -> None:
        """A call began."""
        self._started.inc()
        self._in_flight.inc()

    def ended(self, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended so, after this time."""
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._handled.labels(*self._labels, CODE_NAMES[code])
        counter.inc()
        self._in_flight.dec()
        self._seconds.observe(seconds)


@lru_cache
def metrics_of(prefix: str, side: str) -> Metrics:
    """The metrics under this prefix; all servers of a process share them."""
    return Metrics(prefix, side)


def prepare_multiprocess(directory: str) -> None:
    """Makes this process add up the metrics that worker processes write to `directory`."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory


def mark_worker_dead(pid: int) -> None:
    """Takes the gauges of a worker that ended out of the sums; its counters stay."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # untyped upstream


def render() -> tuple[bytes, str]:
    """The metrics of this process, or of all workers, and their content type."""
    registry: CollectorRegistry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # likewise
    return generate_latest(registry), CONTENT_TYPE_LATEST
