"""The client of math_service."""

from __future__ import annotations

from mysingle.grpc import BaseGrpcClient
from shared_protos import math_pb2_grpc

__all__ = ["MathClient"]


class MathClient(BaseGrpcClient["math_pb2_grpc.MathServiceAsyncStub"]):
    """Talks to math_service at `MATH_SERVICE_GRPC_TARGET`, by default `localhost:50051`."""

    stub_class = math_pb2_grpc.MathServiceStub
    service_name = "math-service"
    default_target = "localhost:50051"
