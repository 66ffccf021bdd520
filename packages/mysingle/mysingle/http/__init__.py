"""Glue for FastAPI applications that call, or also serve, gRPC."""

from __future__ import annotations

from mysingle.http._app import install
from mysingle.http._errors import http_status
from mysingle.http._lifespan import grpc_lifespan

__all__ = ["grpc_lifespan", "http_status", "install"]
