"""Waiting until a server says that it can be used."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["LOCAL_CHANNEL_OPTIONS", "wait_http", "wait_serving"]

LOCAL_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
)
_POLL_SECONDS = 0.1


async def wait_serving(target: str) -> None:
    """Returns when the health service at `target` answers SERVING for the whole server."""
    async with grpc.aio.insecure_channel(target, options=LOCAL_CHANNEL_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                watch = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:  # it went away while it started; so it starts again
                await asyncio.sleep(_POLL_SECONDS)


async def wait_http(url: str) -> None:
    """Returns when a GET of `url` answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            with opener.open(url, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    while not await asyncio.to_thread(answers):  # noqa: ASYNC110  # another process
        await asyncio.sleep(_POLL_SECONDS)
