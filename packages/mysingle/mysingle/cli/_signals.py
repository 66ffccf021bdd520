"""The first signal asks, the second insists."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Asked", "signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Asked:
    """Set as SIGINT, SIGTERM or SIGHUP come in.

    Attributes:
        first: Somebody wants an end.
        second: Somebody wants it now.
    """

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def set(self) -> None:
        """Notes one more signal."""
        (self.second if self.first.is_set() else self.first).set()


@contextmanager
def signals() -> Iterator[Asked]:
    """Catches the signals that end a program while the block runs."""
    loop = asyncio.get_running_loop()
    asked = Asked()
    for number in _SIGNALS:
        loop.add_signal_handler(number, asked.set)
    try:
        yield asked
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
