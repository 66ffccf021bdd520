"""Readiness: named checks, each with a limit of time."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

__all__ = ["ReadyCheck", "ReadyChecks"]

ReadyCheck = Callable[[], bool | Awaitable[bool]]

_log = logging.getLogger("mysingle.http")
_CHECK_SECONDS = 2.0
_THREADS = 4


class ReadyChecks:
    """Runs all checks at once; one that fails, raises or takes too long did not pass.

    A plain `def` runs in a thread of its own pool: it may block neither the requests being
    served nor, if it hangs for good, the threads that everything else uses.

    Args:
        checks: By the name that `/readyz` shows.
        timeout: Seconds for each check; 2 by default.
    """

    def __init__(
        self, checks: Mapping[str, ReadyCheck], *, timeout: float = _CHECK_SECONDS
    ) -> None:
        self._checks = dict(checks)
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ready")

    async def run(self) -> dict[str, bool]:
        """Whether each check passed, by name."""
        passed = await asyncio.gather(
            *(self._passes(name, check) for name, check in self._checks.items())
        )
        return dict(zip(self._checks, passed, strict=True))

    async def _passes(self, name: str, check: ReadyCheck) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                result: bool | Awaitable[bool]
                if _is_async(check):
                    result = check()
                else:
                    loop = asyncio.get_running_loop()
                    result = await loop.run_in_executor(self._pool, check)
                return bool(await result if inspect.isawaitable(result) else result)
        except Exception as error:
            _log.warning("not ready: %s: %s: %s", name, type(error).__name__, error)
            return False


def _is_async(check: ReadyCheck) -> bool:
    return inspect.iscoroutinefunction(check) or inspect.iscoroutinefunction(
        getattr(check, "__call__", None)  # noqa: B004  # an object with an async __call__
    )
