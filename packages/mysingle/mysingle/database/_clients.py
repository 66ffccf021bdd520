"""Clients by URL, made once for each event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

__all__ = ["close_clients", "get_mongodb_client", "get_redis_client", "redis_client"]

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, int], Any]] = (
    WeakKeyDictionary()
)


def redis_client(settings: CommonSettings, *, db: int = 0) -> Redis:
    """A new client with bounded time-outs; it connects at the first command.

    Raises:
        ConfigError: `REDIS_URL` is not set or no Redis URL.
    """
    if not settings.REDIS_URL:
        raise ConfigError("REDIS_URL is not set; write for example redis://localhost:6379")
    try:
        return Redis.from_url(
            settings.REDIS_URL,
            db=db,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URL: {error}") from None


async def get_redis_client(settings: CommonSettings | None = None, *, db: int = 0) -> Redis:
    """The client of this event loop for `REDIS_URL` and `db`, made at the first use.

    Args:
        settings: Read anew from the environment if left out.
        db: Number of the database.

    Raises:
        ConfigError: `REDIS_URL` is not set or no Redis URL.
    """
    settings = settings or CommonSettings()
    of_loop = _clients.setdefault(asyncio.get_running_loop(), {})
    key = ("redis", settings.REDIS_URL, db)
    if key not in of_loop:
        of_loop[key] = redis_client(settings, db=db)
    client: Redis = of_loop[key]
    return client


async def get_mongodb_client(
    settings: CommonSettings | None = None,
) -> AsyncMongoClient[dict[str, Any]]:
    """The client of this event loop for `MONGODB_URL`, made at the first use.

    Raises:
        ConfigError: `MONGODB_URL` is not set or no MongoDB URL, or PyMongo is not installed.
    """
    settings = settings or CommonSettings()
    if not settings.MONGODB_URL:
        raise ConfigError("MONGODB_URL is not set; write for example mongodb://localhost:27017")
    of_loop = _clients.setdefault(asyncio.get_running_loop(), {})
    key = ("mongodb", settings.MONGODB_URL, 0)
    if key not in of_loop:
        of_loop[key] = _mongodb_client(settings.MONGODB_URL)
    client: AsyncMongoClient[dict[str, Any]] = of_loop[key]
    return client


def _mongodb_client(url: str) -> AsyncMongoClient[dict[str, Any]]:
    try:
        from pymongo import AsyncMongoClient
        from pymongo.errors import PyMongoError
    except ImportError:
        raise ConfigError("MongoDB needs PyMongo: pip install mysingle[common-grpc]") from None
    try:
        return AsyncMongoClient(
            url,
            connectTimeoutMS=round(_CONNECT_SECONDS * 1000),
            serverSelectionTimeoutMS=round(_ANSWER_SECONDS * 1000),
        )
    except (PyMongoError, ValueError) as error:
        raise ConfigError(f"MONGODB_URL: {error}") from None


async def close_clients() -> None:
    """Closes the clients of this event loop."""
    for (kind, _, _), client in _clients.pop(asyncio.get_running_loop(), {}).items():
        await (client.aclose() if kind == "redis" else client.close())
