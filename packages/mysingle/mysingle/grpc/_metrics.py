"""Prometheus metrics, in the shape that gRPC dashboards of other languages know.

Names and labels are those of go-grpc-prometheus
(https://github.com/grpc-ecosystem/go-grpc-middleware), behind a prefix.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

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
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

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

_BATCH: Final = 512
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

        self._of: dict[tuple[str, int], MethodMetrics] = {}

    def of(self, method: Method) -> MethodMetrics:
        """The series of one method, for callers in this thread."""
        key = (method.full_name, threading.get_ident())
        found = self._of.get(key)
        if found is None:
            labels = (method.grpc_type, method.service, method.name)
            found = self._of[key] = MethodMetrics(
                self._started.labels(*labels),
                lambda code: self._handled.labels(*labels, CODE_NAMES[code]),
                self._received.labels(*labels),
                self._sent.labels(*labels),
                self._seconds.labels(*labels),
                self._in_flight.labels(*labels),
            )
        return found

    def hand_over(self) -> None:
        """Brings every series up to date."""
        for one in list(self._of.values()):
            one.hand_over()


class MethodMetrics:
    """Counts the calls of one method, and hands the counts to Prometheus in batches.

    Eight locked additions for each call are a good part of what a call costs; here they are
    plain numbers that one thread writes, handed over when somebody looks, and every so many
    calls. Several processes share files that anybody may read at any time: then at each call.
    """

    def __init__(
        self,
        started: Counter,
        handled: Callable[[grpc.StatusCode], Counter],
        received: Counter,
        sent: Counter,
        seconds: Histogram,
        in_flight: Gauge,
    ) -> None:
        self._series = (started, received, sent)
        self._handled = handled
        self._by_code = {grpc.StatusCode.OK: handled(grpc.StatusCode.OK)}
        self._observe = seconds.observe
        self._in_flight = in_flight
        self._batch = 1 if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else _BATCH
        self._started = self._received = self._sent = 0
        self._handed = (0, 0, 0)
        self._ended: deque[tuple[grpc.StatusCode, float]] = deque()
        self._handing = threading.Lock()

    def started(self) -> None:
        """A call began."""
        self._started += 1
        if self._batch == 1:
            self.hand_over()

    def received(self) -> None:
        """A message came in."""
        self._received += 1
        if self._batch == 1:
            self.hand_over()

    def sent(self) -> None:
        """A message went out."""
        self._sent += 1
        if self._batch == 1:
            self.hand_over()

    def ended(self, code: grpc.StatusCode, seconds: float) -> None:
        """A call ended so, after this time."""
        self._ended.append((code, seconds))
        if len(self._ended) >= self._batch:
            self.hand_over()

    def hand_over(self) -> None:
        """Brings the series up to date; any thread may call it."""
        with self._handing:
            counted = (self._started, self._received, self._sent)
            for series, now, before in zip(self._series, counted, self._handed, strict=True):
                if now != before:
                    series.inc(now - before)
            running = counted[0] - self._handed[0]
            self._handed = counted
            while self._ended:
                code, seconds = self._ended.popleft()
                counter = self._by_code.get(code)
                if counter is None:
                    counter = self._by_code[code] = self._handled(code)
                counter.inc()
                self._observe(seconds)
                running -= 1
            if running:
                self._in_flight.inc(running)


class _BeforeTheOthers(Collector):
    """Collects nothing, but is asked first, and has the series brought up to date."""

    def collect(self) -> Iterable[Metric]:
        """Nothing."""
        for metrics in _all:
            metrics.hand_over()
        return ()


_all: list[Metrics] = []
REGISTRY.register(_BeforeTheOthers())


@lru_cache
def metrics_of(prefix: str, side: str) -> Metrics:
    """The metrics under this prefix; all servers of a process share them."""
    made = Metrics(prefix, side)
    _all.append(made)
    return made


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
