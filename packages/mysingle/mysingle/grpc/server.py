"""The server side: subclass `BaseGrpcServer`, configure it with `GrpcServerConfig`."""

from __future__ import annotations

from mysingle.grpc._config import GrpcServerConfig
from mysingle.grpc._server import BaseGrpcServer

__all__ = ["BaseGrpcServer", "GrpcServerConfig"]
