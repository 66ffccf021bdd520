"""The servers that are measured; `python -m benchmarks.servers NAME` runs one on a free port.

All answer `bench.Echo/Unary` with the request, from an `async def` servicer. The port is
printed when the server is ready.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.config import CommonSettings
from mysingle.grpc.cache import GrpcCache, grpc_cached
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig

SERVICE = "bench.Echo"
METHOD = f"/{SERVICE}/Unary"
_STEPS = ("metrics", "auth", "rate_limiting", "metadata", "logging", "error_handling")


class Echo:
    """Answers with the request."""

    def __init__(self, settings: CommonSettings) -> None:
        self._grpc_cache = GrpcCache.from_settings(settings, service_name="bench")

    async def Unary(self, request: StringValue, context: Any) -> StringValue:  # noqa: N802
        """The request."""
        del context
        return StringValue(value=request.value)


class CachedEcho(Echo):
    """Answers from the cache, once it did."""

    Unary = grpc_cached(ttl=3600)(Echo.Unary)


def add_to(servicer: Echo, server: Any) -> None:
    """What generated code would be."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Unary,
        request_deserializer=StringValue.FromString,
        response_serializer=StringValue.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(SERVICE, {"Unary": handler})
    server.add_generic_rpc_handlers((generic,))
    server.add_registered_method_handlers(SERVICE, {"Unary": handler})


async def _bare() -> None:
    server = grpc.aio.server()
    add_to(Echo(CommonSettings(_env_file=None)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def _ours(servicer: type[Echo] = Echo, **overrides: Any) -> Callable[[], Any]:
    async def run() -> None:
        settings = CommonSettings(_env_file=None, ENVIRONMENT="test")

        class Server(BaseGrpcServer):
            def register_servicers(self, server: Any) -> None:
                add_to(servicer(settings), server)

        config = GrpcServerConfig.from_settings(
            settings,
            service_name="bench",
            port=0,
            host="127.0.0.1",
            rate_limit_max_requests=10**9,
            **overrides,
        )
        server = Server(config)
        await server.start()
        print(server.port, flush=True)
        await server.wait()

    return run


OFF = {f"enable_{step}": False for step in _STEPS}
SERVERS: dict[str, tuple[Callable[[], Any], bool]] = {
    # name: how it runs, and whether on uvloop, as `BaseGrpcServer.main()` does
    "grpc.aio": (_bare, False),
    "grpc.aio, uvloop": (_bare, True),
    "chain off": (_ours(**OFF), True),
    "six on, every call logged": (_ours(), True),
    "six on, 1 log line in 100": (_ours(log_sample=0.01), True),
    "six on, asyncio's loop": (_ours(log_sample=0.01), False),
    "six on, cache hit": (_ours(CachedEcho, log_sample=0.01), True),
}


def main() -> None:
    """Runs the server that the command line names."""
    run, on_uvloop = SERVERS[sys.argv[1]]
    factory = None
    if on_uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
