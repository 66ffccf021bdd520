"""Clients by URL, made once for each event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from redis.asyncio import Redis

__all__ = ["close_clients", "get_mongodb_client", "get_redis_client", "redis_client"]

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_MONGODB_DEFAULTS = {
    "connectTimeoutMS": 1_000,
    "serverSelectionTimeoutMS": 2_000,
    "socketTimeoutMS": 30_000,
}
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, int | None], Any]] = (
    WeakKeyDictionary()
)


def redis_client(settings: CommonSettings, *, db: int | None = None) -> Redis:
    """A new client with bounded time-outs; it connects at the first command.

    Connecting may take 1 s and an answer 2 s; `?socket_timeout=` in the URL says otherwise.

    Args:
        settings: Has `REDIS_URL`.
        db: Number of the database; that of the URL, else 0, if left out.

    Raises:
        ConfigError: `REDIS_URL` is not set or no Redis URL.
    """
    if not settings.REDIS_URL:
        raise ConfigError("REDIS_URL is not set; write for example redis://localhost:6379")
    # Here, because it takes half a second to load, and many services do without Redis.
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    try:
        client: Redis = Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            # Redis may have closed an idle connection, or restarted: that is no outage. A
            # time-out is not tried again, or callers would wait twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URL: {error}") from None
    if db is not None:
        # Not by an argument: the number in a URL, such as the common /0, would win over it.
        client.connection_pool.connection_kwargs["db"] = db
    return client


async def get_redis_client(
    settings: CommonSettings | None = None, *, db: int | None = None
) -> Redis:
    """The client of this event loop for `REDIS_URL` and `db`, made at the first use.

    Args:
        settings: Read anew from the environment if left out.
        db: Number of the database; that of the URL, else 0, if left out.

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

    Connecting may take 1 s, finding a server 2 s and an answer 30 s; `connectTimeoutMS=`,
    `serverSelectionTimeoutMS=` and `socketTimeoutMS=` in the URL say otherwise.

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
    # Arguments would win over what the URL says.
    defaults: dict[str, Any] = {
        name: value for name, value in _MONGODB_DEFAULTS.items() if name.lower() not in url.lower()
    }
    try:
        return AsyncMongoClient(url, **defaults)
    except (PyMongoError, ValueError) as error:
        raise ConfigError(f"MONGODB_URL: {error}") from None


async def close_clients() -> None:
    """Closes the clients of this event loop."""
    for (kind, _, _), client in _clients.pop(asyncio.get_running_loop(), {}).items():
        await (client.aclose() if kind == "redis" else client.close())
