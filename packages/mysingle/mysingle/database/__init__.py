"""Connections to the databases that the settings name, shared within an event loop."""

from __future__ import annotations

from mysingle.database._clients import (
    close_clients,
    get_mongodb_client,
    get_redis_client,
    redis_client,
)
from mysingle.database._embedded import RedisServer

__all__ = [
    "RedisServer",
    "close_clients",
    "get_mongodb_client",
    "get_redis_client",
    "redis_client",
]
