"""The first tier: in this process, least recently used goes first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from google.protobuf.message import Message

from mysingle.grpc._cache_pattern import KeyPattern

__all__ = ["Entry", "LocalCache"]

Entry: TypeAlias = tuple[type[Message], bytes]
"""A message as its class and its bytes, so that each reader gets one of its own."""


class LocalCache:
    """Keeps so many messages, each for a while.

    Args:
        max_size: Messages kept; beyond, the one unused longest goes.
        ttl: Seconds a message is kept at most.
        clock: Gives seconds; for tests.
    """

    def __init__(
        self, max_size: int, ttl: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_size = max_size
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry; None if there is none, or it is too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        entry, until = found
        if self._clock() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def set(self, key: str, entry: Entry, ttl: float) -> None:
        """Keeps an entry for `ttl` seconds, or for the cache's own time if that is less."""
        self._entries[key] = (entry, self._clock() + min(ttl, self._ttl))
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)

    def drop(self, key: str) -> int:
        """Drops one key; says how many there were."""
        return 1 if self._entries.pop(key, None) is not None else 0

    def drop_matching(self, pattern: KeyPattern) -> int:
        """Drops the keys that match; says how many."""
        found = [key for key in self._entries if pattern.matches(key)]
        for key in found:
            del self._entries[key]
        return len(found)

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
