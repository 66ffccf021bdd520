"""Connections shared by the clients of one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc._channel import Transport
from mysingle.grpc._client_options import channel_options
from mysingle.grpc._metrics import metrics_of
from mysingle.grpc._tls import client_credentials

__all__ = ["SharedTransport", "acquire", "close_channels"]


class SharedTransport(Transport):
    """A transport and how many clients use it.

    Attributes:
        users: Clients inside of their `async with`.
        retired: No new client gets it; it closes with its last user.
        stamps: State of the certificate files when it was made.
    """

    users = 0
    retired = False
    stamps: tuple[int, ...] = ()

    async def release(self) -> None:
        """One client less."""
        self.users -= 1
        await self.close_if_unused()

    async def retire(self) -> None:
        """Closes now, or when the last client has left."""
        self.retired = True
        await self.close_if_unused()

    async def close_if_unused(self) -> None:
        """Closes the connection if it is retired and unused."""
        if self.retired and self.users <= 0:
            await self.channel.close()


class _Pool:
    """The transports of one event loop in one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.transports: dict[Any, SharedTransport] = {}
        self.breakers: dict[Any, CircuitBreaker] = {}
        self.closer: AsyncGenerator[None, None] | None = None


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
# Pools of a parent process. They are kept, because closing or collecting them would take part
# in connections that are the parent's.
_inherited: list[_Pool] = []


async def acquire(
    target: str, settings: CommonSettings, retried: tuple[tuple[str, str], ...]
) -> SharedTransport:
    """The transport for these settings, made if there is none; call `release` after use.

    Nothing is connected until the first call.

    Raises:
        ConfigError: A certificate file cannot be used.
    """
    pool = await _pool()
    files = (
        settings.GRPC_CLIENT_TLS_CA_FILE,
        settings.GRPC_CLIENT_TLS_CERT_FILE,
        settings.GRPC_CLIENT_TLS_KEY_FILE,
    )
    of_breaker = (
        target,
        settings.GRPC_CLIENT_BREAKER_FAILURES,
        settings.GRPC_CLIENT_BREAKER_RESET_SECONDS,
    )
    key = (
        of_breaker,
        retried,
        settings.GRPC_CLIENT_TLS,
        files,
        settings.GRPC_CLIENT_RETRY_MAX_ATTEMPTS,
        settings.GRPC_MAX_RECEIVE_MESSAGE_BYTES,
        settings.GRPC_MAX_SEND_MESSAGE_BYTES,
        settings.GRPC_MAX_METADATA_BYTES,
        settings.GRPC_ENABLE_METRICS and settings.GRPC_METRICS_PREFIX,
    )
    stamps = _stamps(files)
    transport = pool.transports.get(key)
    if transport is None or transport.stamps != stamps:
        made = _make(target, settings, retried, pool.breakers, of_breaker)
        made.stamps = stamps
        pool.transports[key] = made
        made.users += 1
        if transport is not None:  # its certificate was replaced
            await transport.retire()
        return made
    transport.users += 1
    return transport


def _stamps(files: tuple[Path | None, ...]) -> tuple[int, ...]:
    return tuple(
        file.stat().st_mtime_ns if file.exists() else 0 for file in files if file is not None
    )


def _make(
    target: str,
    settings: CommonSettings,
    retried: tuple[tuple[str, str], ...],
    breakers: dict[Any, CircuitBreaker],
    of_breaker: Any,
) -> SharedTransport:
    options = channel_options(settings, retried)
    credentials = client_credentials(settings)
    channel = (
        grpc.aio.insecure_channel(target, options=options)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=options)
    )
    breaker = breakers.get(of_breaker)
    if breaker is None:
        breaker = breakers[of_breaker] = CircuitBreaker(*of_breaker[1:])
    metrics = (
        metrics_of(settings.GRPC_METRICS_PREFIX, "client") if settings.GRPC_ENABLE_METRICS else None
    )
    return SharedTransport(channel, target, breaker, metrics)


async def _pool() -> _Pool:
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is not None and pool.process == os.getpid():
        return pool
    if pool is not None:
        _inherited.append(pool)
    pool = _pools[loop] = _Pool()
    # Whoever ends a loop properly, as asyncio.run does, closes its generators, and this one
    # closes the connections.
    pool.closer = _close_at_end(pool)
    await anext(pool.closer)
    return pool


async def _close_at_end(pool: _Pool) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        if pool.process == os.getpid():
            for transport in pool.transports.values():
                await transport.channel.close()


async def close_channels() -> None:
    """Closes the shared connections of this event loop.

    Those that a client still uses close when it leaves; clients made from now on connect anew.
    `asyncio.run` and its like close what is left when the loop ends.
    """
    pool = _pools.get(asyncio.get_running_loop())
    if pool is None or pool.process != os.getpid():
        return
    transports = list(pool.transports.values())
    pool.transports.clear()
    pool.breakers.clear()
    for transport in transports:
        await transport.retire()
