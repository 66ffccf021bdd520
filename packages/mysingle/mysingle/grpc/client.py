"""The client side: subclass `BaseGrpcClient` with a generated stub."""

from __future__ import annotations

from mysingle.grpc._client import BaseGrpcClient, close_channels

__all__ = ["BaseGrpcClient", "close_channels"]
