"""What a user has after `pip install`; test_wheels.py runs this in an empty environment."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

import mysingle
from mysingle.core.config import CommonSettings
from mysingle.database import get_mongodb_client, get_redis_client
from mysingle.grpc import BaseGrpcClient
from mysingle.grpc.cache import GrpcCache, grpc_cached
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig
from shared_protos import math_pb2, math_pb2_grpc

PUBLIC = (get_mongodb_client, get_redis_client, GrpcCache, grpc_cached)


class Math(math_pb2_grpc.MathServiceServicer):
    async def Add(self, request: Any, _context: Any) -> Any:
        return math_pb2.AddReply(result=request.a + request.b)


class Client(BaseGrpcClient[Any]):
    stub_class = math_pb2_grpc.MathServiceStub


class Server(BaseGrpcServer):
    def register_servicers(self, server: Any) -> None:
        math_pb2_grpc.add_MathServiceServicer_to_server(Math(), server)


async def main() -> None:
    settings = CommonSettings(ENVIRONMENT="test", GRPC_METRICS_PORT=None)
    server = Server(GrpcServerConfig.from_settings(settings, service_name="math", port=0))
    await server.start()
    async with Client(server.address, user_id="alice") as client:
        health = await health_pb2_grpc.HealthStub(client.channel).Check(
            health_pb2.HealthCheckRequest()
        )
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(health.status))
        print((await client.stub.Add(math_pb2.AddRequest(a=3, b=5))).result)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
    print("typed:", files("mysingle").joinpath("py.typed").is_file())
    print(mysingle.__file__)
