"""OpenTelemetry spans of served calls, where its packages are installed.

Nothing here imports OpenTelemetry before a server asks for a step: the `grpc` extra does
without it.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar, Token
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import grpc

from mysingle.core.config import CommonSettings
from mysingle.grpc._context import CallContext
from mysingle.grpc._method import Method
from mysingle.grpc._outcome import Outcome
from mysingle.grpc.interceptors._base import Interceptor

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["TracingInterceptor", "configure_tracing", "tracing_step"]

_Code = grpc.StatusCode
_UNTRACED: Final = frozenset({"grpc.health.v1.Health"})
# On a server the conventions call only these errors; the others are the caller's.
_ERRORS: Final = frozenset(
    {
        _Code.UNKNOWN,
        _Code.DEADLINE_EXCEEDED,
        _Code.UNIMPLEMENTED,
        _Code.INTERNAL,
        _Code.UNAVAILABLE,
        _Code.DATA_LOSS,
    }
)
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_step(settings: CommonSettings) -> Interceptor | None:
    """The step to put around the standard chain.

    None where `GRPC_ENABLE_TRACING` is off, OpenTelemetry's API is not installed, or nobody
    collects spans: no endpoint is set, and the program has set no provider by now.
    """
    if not settings.GRPC_ENABLE_TRACING or not _installed("opentelemetry.trace"):
        return None
    if not configure_tracing(settings) and not _provider_is_set():
        return None
    return TracingInterceptor()


def _provider_is_set() -> bool:
    trace = sys.modules.get("opentelemetry.trace")  # not loaded: nobody set one
    return trace is not None and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider
    )


def configure_tracing(settings: CommonSettings) -> bool:
    """Exports spans over OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

    Calling it again does nothing, nor does it where the program has set a provider of its own.
    Spans left over are sent when the interpreter ends.

    Returns:
        Whether it set the provider.
    """
    if not (settings.GRPC_ENABLE_TRACING and any(os.environ.get(one) for one in _ENDPOINTS)):
        return False
    exporter = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    if not (_installed("opentelemetry.sdk.trace") and _installed(exporter)):
        return False
    from opentelemetry import trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME is what an operator sets for this very purpose, so it wins.
    name = os.environ.get("OTEL_SERVICE_NAME") or settings.SERVICE_NAME
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


class TracingInterceptor(Interceptor):
    """A span for each call, named `package.Service/Method`, below the caller's span.

    The caller's span is read from `traceparent` and its kin, by whatever propagator the program
    has set. While the call runs the span is the current one: logs carry its ids and clients
    send it on. Health checks have none.

    Args:
        provider: Where spans go; the program's global one by default.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry import context, propagate, trace

        self._context, self._propagate, self._trace = context, propagate, trace
        self._tracer = trace.get_tracer("mysingle.grpc", tracer_provider=provider)
        # On the call's own task, and not by call: `before` and `after` run in one context.
        self._active: ContextVar[tuple[Span, Token[Context]] | None] = ContextVar(
            "mysingle_span", default=None
        )

    def for_method(self, method: Method) -> Interceptor | None:
        """Leaves out health."""
        return None if method.service in _UNTRACED else self

    def before(self, call: CallContext) -> None:
        """Starts the span and makes it the current one."""
        context, propagate, trace = self._context, self._propagate, self._trace
        method = call.method
        texts = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        span = self._tracer.start_span(
            f"{method.service}/{method.name}",
            context=propagate.extract(texts),
            kind=trace.SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": method.service,
                "rpc.method": method.name,
                **_peer(call.peer()),
            },
        )
        self._active.set((span, context.attach(trace.set_span_in_context(span))))

    def after(self, call: CallContext, outcome: Outcome) -> None:
        """Ends the span with the call's status."""
        active = self._active.get()
        if active is None:
            return
        self._active.set(None)
        context, trace = self._context, self._trace
        span, token = active
        code = outcome.code
        number: int = code.value[0]
        span.set_attribute("rpc.grpc.status_code", number)
        if call.request_context.user_id:
            span.set_attribute("enduser.id", call.request_context.user_id)
        if call.correlation_id:
            span.set_attribute("mysingle.correlation_id", call.correlation_id)
        if code in _ERRORS:
            # The type only: the text of an exception may hold what no other system should see.
            if outcome.error is not None:
                span.set_attribute("error.type", type(outcome.error).__qualname__)
            span.set_status(trace.StatusCode.ERROR, code.name)
        span.end()
        context.detach(token)


def _peer(peer: str) -> dict[str, Any]:
    """`ipv4:10.0.0.1:5000` as attributes; nothing for a Unix socket."""
    kind, _, address = unquote(peer).partition(":")  # grpc writes `ipv6:%5B::1%5D:5000`
    host, _, port = address.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return {}
    return {"client.address": host.strip("[]"), "client.port": int(port)}
