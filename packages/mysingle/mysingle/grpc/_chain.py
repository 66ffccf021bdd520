"""The standard chain; its order stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._method import MethodSet
from mysingle.grpc.interceptors import (
    AuthInterceptor,
    ConcurrencyInterceptor,
    ErrorHandlingInterceptor,
    Interceptor,
    LoggingInterceptor,
    MetadataInterceptor,
    MetricsInterceptor,
    RateLimitInterceptor,
)

__all__ = ["standard_chain"]

HEALTH = "/grpc.health.v1.Health/*"
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/*",
    "/grpc.reflection.v1alpha.ServerReflection/*",
)


def standard_chain(
    settings: CommonSettings, own: Sequence[Interceptor] = ()
) -> tuple[Interceptor, ...]:
    """Metrics → auth → rate limit → metadata → logging → error handling → `own`.

    Each of the six can be left out by its `GRPC_ENABLE_…` setting. With
    `GRPC_MAX_CONCURRENT_CALLS` a limit of calls at once stands before auth.

    Raises:
        ConfigError: `GRPC_AUTH_EXEMPT_METHODS` holds something that is no method, or an
            interceptor lacks a setting it needs.
    """
    chain: list[Interceptor] = []
    if settings.GRPC_ENABLE_METRICS:
        chain.append(MetricsInterceptor(settings))
    if settings.GRPC_MAX_CONCURRENT_CALLS is not None:
        chain.append(ConcurrencyInterceptor(settings.GRPC_MAX_CONCURRENT_CALLS))
    if settings.GRPC_ENABLE_AUTH:
        chain.append(AuthInterceptor(settings, _exempt(settings)))
    if settings.GRPC_ENABLE_RATE_LIMITING:
        chain.append(RateLimitInterceptor(settings))
    if settings.GRPC_ENABLE_METADATA:
        chain.append(MetadataInterceptor())
    if settings.GRPC_ENABLE_LOGGING:
        chain.append(LoggingInterceptor(settings))
    if settings.GRPC_ENABLE_ERROR_HANDLING:
        chain.append(ErrorHandlingInterceptor())
    return (*chain, *own)


def _exempt(settings: CommonSettings) -> MethodSet:
    try:
        # Reflection is a tool for development: whoever turned it on wants `grpcurl list` to work.
        return MethodSet([HEALTH, *REFLECTION, *settings.GRPC_AUTH_EXEMPT_METHODS])
    except ValueError as error:
        raise ConfigError(f"GRPC_AUTH_EXEMPT_METHODS: {error}") from None
