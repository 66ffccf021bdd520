"""The six interceptors of the standard chain, and the base to write your own."""

from __future__ import annotations

from mysingle.grpc.interceptors._base import Interceptor
from mysingle.grpc.interceptors.auth import AuthInterceptor
from mysingle.grpc.interceptors.concurrency import ConcurrencyInterceptor
from mysingle.grpc.interceptors.errors import ErrorHandlingInterceptor
from mysingle.grpc.interceptors.logging import LoggingInterceptor
from mysingle.grpc.interceptors.metadata import MetadataInterceptor
from mysingle.grpc.interceptors.metrics import MetricsInterceptor
from mysingle.grpc.interceptors.rate_limit import RateLimitInterceptor

__all__ = [
    "AuthInterceptor",
    "ConcurrencyInterceptor",
    "ErrorHandlingInterceptor",
    "Interceptor",
    "LoggingInterceptor",
    "MetadataInterceptor",
    "MetricsInterceptor",
    "RateLimitInterceptor",
]
