"""The usage guide's code, as it stands there, with an echo service in place of `my_service`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.config import CommonSettings
from mysingle.database import RedisServer
from mysingle.grpc import BaseGrpcClient
from mysingle.grpc.cache import GrpcCache, grpc_cached
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig

SERVICE = "my_service.v1.MyService"
DATABASE = {"s-1": "one"}
FETCHED: list[str] = []


class MyServiceSettings(CommonSettings):
    SERVICE_NAME: str = "my-service"

    GRPC_SERVER_PORT: int = 50052


def service_stub(channel: Any) -> Any:
    """Stands for the generated stub."""

    class Stub:
        GetStrategyVersion = channel.unary_unary(
            f"/{SERVICE}/GetStrategyVersion",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        GetIndicatorMetadata = channel.unary_unary(
            f"/{SERVICE}/GetIndicatorMetadata",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        UpdateStrategyVersion = channel.unary_unary(
            f"/{SERVICE}/UpdateStrategyVersion",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        BatchGetStrategies = channel.unary_stream(
            f"/{SERVICE}/BatchGetStrategies",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )

    return Stub()


class StrategyServicer:
    def __init__(self, settings: CommonSettings) -> None:
        self._grpc_cache = GrpcCache.from_settings(settings, service_name="strategy-service")

    @grpc_cached(ttl=300)
    async def GetStrategyVersion(self, request: StringValue, context: Any) -> StringValue:
        FETCHED.append(request.value)
        version = DATABASE.get(request.value)
        if not version:
            raise FileNotFoundError(f"Version not found: {request.value}")
        return StringValue(value=version)

    async def GetIndicatorMetadata(self, request: StringValue, context: Any) -> Any:
        cache_key = self._grpc_cache.make_cache_key(
            method="GetIndicatorMetadata",
            request=request,
        )
        cached = await self._grpc_cache.get_with_l1(cache_key)
        if cached:
            return cached
        FETCHED.append(request.value)
        result = StringValue(value=f"metadata of {request.value}")
        await self._grpc_cache.set_with_l1(cache_key, result, ttl=3600)
        return result

    async def UpdateStrategyVersion(self, request: StringValue, context: Any) -> StringValue:
        DATABASE[request.value] = "two"
        await self._grpc_cache.invalidate_pattern(f"GetStrategyVersion*{request.value}*")
        return StringValue(value="updated")

    async def BatchGetStrategies(
        self, request: StringValue, context: Any
    ) -> AsyncIterator[StringValue]:
        for strategy_id in request.value.split(","):
            if strategy_id in DATABASE:
                yield StringValue(value=DATABASE[strategy_id])


class GenAIGrpcServer(BaseGrpcServer):
    async def before_start(self) -> None:
        await super().before_start()
        self.factory = "ready"

    async def after_stop(self) -> None:
        if hasattr(self, "factory"):
            self.factory = "closed"
        await super().after_stop()

    def register_servicers(self, server: Any) -> None:
        assert self.factory == "ready"
        servicer = StrategyServicer(self.config.settings)
        unary = grpc.unary_unary_rpc_method_handler
        stream = grpc.unary_stream_rpc_method_handler
        codec = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        handlers = {
            "GetStrategyVersion": unary(servicer.GetStrategyVersion, **codec),
            "GetIndicatorMetadata": unary(servicer.GetIndicatorMetadata, **codec),
            "UpdateStrategyVersion": unary(servicer.UpdateStrategyVersion, **codec),
            "BatchGetStrategies": stream(servicer.BatchGetStrategies, **codec),
        }
        server.add_registered_method_handlers(SERVICE, handlers)


class MyServiceClient(BaseGrpcClient[Any]):
    stub_class = staticmethod(service_stub)
    service_name = "my-service"


@pytest.fixture
async def grpc_server(tmp_path: Path) -> AsyncIterator[GenAIGrpcServer]:
    with RedisServer(tmp_path / "redis") as redis:
        settings = MyServiceSettings(
            _env_file=None,
            ENVIRONMENT="test",
            REDIS_URL=redis.url,
        )
        config = GrpcServerConfig.from_settings(
            settings,
            service_name="test-service",
            port=0,
            enable_reflection=settings.ENVIRONMENT in ["development", "test"],
            reflection_service_names=[SERVICE, "grpc.reflection.v1alpha.ServerReflection"],
            auth_exempt_methods=["/grpc.health.v1.Health/Check"],
        )
        server = GenAIGrpcServer(config)
        await server.start()
        yield server
        await server.stop()
        assert server.factory == "closed"


async def test_the_guide(grpc_server: GenAIGrpcServer) -> None:
    FETCHED.clear()
    DATABASE["s-1"] = "one"
    target = f"localhost:{grpc_server.port}"
    async with MyServiceClient(target, user_id="alice") as client:
        for _ in range(3):
            assert (await client.stub.GetStrategyVersion(StringValue(value="s-1"))).value == "one"
        assert FETCHED == ["s-1"]
        await client.stub.UpdateStrategyVersion(StringValue(value="s-1"))
        assert (await client.stub.GetStrategyVersion(StringValue(value="s-1"))).value == "two"
        for _ in range(2):
            answer = await client.stub.GetIndicatorMetadata(StringValue(value="rsi"))
            assert answer.value == "metadata of rsi"
        assert FETCHED == ["s-1", "s-1", "rsi"]
        batch = client.stub.BatchGetStrategies(StringValue(value="s-1,s-2"))
        assert [strategy.value async for strategy in batch] == ["two"]
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await client.stub.GetStrategyVersion(StringValue(value="s-9"))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    async with grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="Missing user-id"):
            await service_stub(channel).GetStrategyVersion(StringValue(value="s-1"))
