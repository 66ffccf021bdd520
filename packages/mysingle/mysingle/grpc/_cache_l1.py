"""The first tier: in this process, least recently used goes first."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["LocalCache"]


class LocalCache:
    """Keeps so many values, each for a while.

    Args:
        max_size: Values kept; beyond, the one unused longest goes.
        ttl: Seconds a value is kept at most.
        clock: Gives seconds; for tests.
    """

    def __init__(
        self, max_size: int, ttl: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_size = max_size
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> bytes | None:
        """The value; None if there is none, or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if self._clock() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def set(self, key: str, value: bytes, ttl: float) -> None:
        """Keeps a value for `ttl` seconds, or for the cache's own time if that is less."""
        self._entries[key] = (value, self._clock() + min(ttl, self._ttl))
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)

    def invalidate(self, pattern: str) -> int:
        """Drops the keys that match a pattern with `*` and `?`; says how many."""
        if "*" not in pattern and "?" not in pattern:
            return 1 if self._entries.pop(pattern, None) is not None else 0
        wanted = re.compile(
            "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), re.DOTALL
        )
        found = [key for key in self._entries if wanted.fullmatch(key)]
        for key in found:
            del self._entries[key]
        return len(found)

    def clear(self) -> None:
        """Drops everything."""
        self._entries.clear()
