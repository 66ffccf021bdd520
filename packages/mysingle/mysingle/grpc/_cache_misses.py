"""What was true when a look-up missed, for the `set` that follows it."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

__all__ = ["Miss", "Misses"]

_MAX_KEYS = 10_000
_MAX_OF_KEY = 1000


@dataclass(frozen=True, slots=True)
class Miss:
    """The moment of a miss.

    Attributes:
        generation: How many invalidations this process had seen.
        epoch: The epoch in Redis; None if there is no Redis or it was away.
    """

    generation: int
    epoch: bytes | None = None


class Misses:
    """Misses by key and by the task that had them.

    By task, because two calls may miss the same key, one before an invalidation and one after,
    and each must store by its own.
    """

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, list[tuple[weakref.ref[asyncio.Task[Any]], Miss]]] = (
            OrderedDict()
        )

    def add(self, key: str, miss: Miss) -> None:
        """Remembers a miss of the running task."""
        task = asyncio.current_task()
        if task is None:
            return
        before = self._by_key.pop(key, [])
        # A task that ended without a `set` (the computation failed) needs nothing any more, but
        # `wait_for(get_with_l1(key), 1)` looks up in a task of its own: the newest may stay.
        kept = [one for one in before if one[0]() is not task and not _is_over(one[0])]
        self._by_key[key] = [*kept[-_MAX_OF_KEY:], (weakref.ref(task), miss)]
        if len(self._by_key) > _MAX_KEYS:
            self._by_key.popitem(last=False)

    def take(self, key: str) -> Miss | None:
        """The running task's miss, else the one of a task that is over; None if it had none."""
        found = self._by_key.get(key)
        if found is None:
            return None
        task = asyncio.current_task()
        mine = next((one for one in found if one[0]() is task), None)
        mine = mine or next((one for one in found if _is_over(one[0])), None)
        if mine is None:
            return None
        found.remove(mine)
        if not found:
            del self._by_key[key]
        return mine[1]


def _is_over(task: weakref.ref[asyncio.Task[Any]]) -> bool:
    running = task()
    return running is None or running.done()
