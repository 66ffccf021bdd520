"""The two-tier cache: `GrpcCache` by hand, `@grpc_cached` on a servicer's method."""

from __future__ import annotations

from mysingle.grpc._cache import GrpcCache
from mysingle.grpc._cached import grpc_cached

__all__ = ["GrpcCache", "grpc_cached"]
