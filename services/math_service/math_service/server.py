"""The gRPC server: `python -m math_service.server`."""

from __future__ import annotations

from typing import Any

import grpc

from math_service.config import MathSettings
from math_service.core import INT32_MAX, INT32_MIN, add
from mysingle.grpc.errors import GrpcError
from mysingle.grpc.server import BaseGrpcServer
from shared_protos import math_pb2, math_pb2_grpc

__all__ = ["MathServer", "MathService"]


class MathService(math_pb2_grpc.MathServiceServicer):
    """`math.MathService`."""

    async def Add(self, request: math_pb2.AddRequest, context: Any) -> math_pb2.AddReply:  # noqa: N802
        """Adds two numbers; OUT_OF_RANGE when the sum does not fit an int32."""
        del context
        try:
            return math_pb2.AddReply(result=add(request.a, request.b))
        except OverflowError as error:
            limits = f"a + b must be between {INT32_MIN} and {INT32_MAX}"
            raise GrpcError(
                grpc.StatusCode.OUT_OF_RANGE,
                str(error),
                violations={"a": limits, "b": limits},
                reason="SUM_OUT_OF_RANGE",
                domain="math",
            ) from error


class MathServer(BaseGrpcServer):
    """Serves [MathService][] with the standard chain."""

    settings_class = MathSettings

    def register_servicers(self, server: Any) -> None:
        """Registers the one servicer."""
        math_pb2_grpc.add_MathServiceServicer_to_server(MathService(), server)


if __name__ == "__main__":
    MathServer.main()
