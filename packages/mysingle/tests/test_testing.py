"""The testing kit, used as a service's author would."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SERVICE = """
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from mysingle.core.config import CommonSettings
from mysingle.database import redis_client
from mysingle.grpc import BaseGrpcClient, BaseGrpcServer, GrpcCallError


class Stub:
    def __init__(self, channel: Any) -> None:
        self.Say = channel.unary_unary(
            "/t.T/Say",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )


class Server(BaseGrpcServer):
    def register_servicers(self, server: Any) -> None:
        async def say(request: StringValue, context: Any) -> StringValue:
            return request

        handler = grpc.unary_unary_rpc_method_handler(
            say, StringValue.FromString, StringValue.SerializeToString
        )
        server.add_registered_method_handlers("t.T", {"Say": handler})


class Client(BaseGrpcClient[Stub]):
    stub_class = Stub


async def test_call(serve, client_of):
    server = await serve(Server)
    client = await client_of(Client, server, user_id="alice")
    assert (await client.stub.Say(StringValue(value="hi"))).value == "hi"
    stranger = await client_of(Client, server)
    with pytest.raises(GrpcCallError, match="Missing user-id"):
        await stranger.stub.Say(StringValue())


async def test_limit_in_redis(serve, client_of, redis_url):
    server = await serve(Server, redis_url=redis_url, rate_limit_max_requests=1)
    client = await client_of(Client, server, user_id="alice")
    await client.stub.Say(StringValue())
    with pytest.raises(GrpcCallError, match="RESOURCE_EXHAUSTED"):
        await client.stub.Say(StringValue())


async def test_a_redis_of_its_own(redis_server):
    redis = redis_client(CommonSettings(_env_file=None, REDIS_URL=redis_server.url))
    await redis.set("a", 1)
    redis_server.stop()
    redis_server.start()
    assert await redis.get("a") is None
    await redis.aclose()
"""


def test_the_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    pytester.makeconftest('pytest_plugins = ["mysingle.testing.plugin"]')
    pytester.makepyfile(SERVICE)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)
