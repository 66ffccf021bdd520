"""Computations under way, which many callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from mysingle.grpc._context import Aborted
from mysingle.grpc._errors import code_of_exception

__all__ = ["Answer", "Flights"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a computation came to, for those who wait for it.

    Attributes:
        message: The answer's class and bytes, so that each caller gets one of their own; or
            whatever it is, if it is no message.
        status: The code, message and trailing metadata that the servicer set on the call that
            computed; None if it set none.
    """

    message: Any
    status: tuple[Any, str, Any] | None

    @classmethod
    def of(cls, message: Any, context: Any) -> Answer:
        """The answer, and what was set on `context`."""
        status = None
        if context is not None and hasattr(context, "code"):
            code = context.code()
            if code is not None and code != 0:
                status = (code, context.details(), context.trailing_metadata())
        if isinstance(message, Message):
            return cls((type(message), message.SerializeToString()), status)
        return cls(message, status)

    def give(self, context: Any) -> Any:
        """A message for another caller, whose call gets the same status."""
        if self.status is not None:
            code, details, trailing = self.status
            context.set_code(code)
            context.set_details(details)
            if trailing:
                context.set_trailing_metadata(trailing)
        if isinstance(self.message, tuple):
            kind, raw = self.message
            return kind.FromString(raw)
        return self.message


Flight: TypeAlias = "asyncio.Future[Answer | None]"


class Flights:
    """The computations under way, by key.

    A flight ends with an answer or an error, or with None where its leader left before either.
    """

    def __init__(self) -> None:
        self._flights: dict[str, tuple[int, Flight]] = {}

    def join(self, key: str, generation: int) -> Flight | None:
        """The flight to wait for; None if there is none that began in this generation.

        What began before an invalidation may come to a stale answer: those who were waiting for
        it then get it, but nobody who came after.
        """
        found = self._flights.get(key)
        return found[1] if found is not None and found[0] == generation else None

    @contextmanager
    def lead(
        self, key: str, generation: int, *, shares_errors: bool
    ) -> Iterator[Callable[[Answer], None]]:
        """Runs a computation as a flight; calling what it gives ends the flight with an answer.

        Others may join until the `with` is left. An error goes to all of them only if
        `shares_errors`, which is for one user's calls, and never if it is about the leader's
        own time; else those who wait compute for themselves.
        """
        flight: Flight = asyncio.get_running_loop().create_future()
        mine = self._flights[key] = (generation, flight)

        def land(answer: Answer) -> None:
            flight.set_result(answer)

        try:
            yield land
        except Exception as error:
            if not flight.done() and shares_errors and not _of_the_leader(error):
                flight.set_exception(error)
                flight.exception()  # said to be seen: there may be no followers
            raise
        finally:
            if not flight.done():
                flight.set_result(None)
            if self._flights.get(key) is mine:
                del self._flights[key]


def _of_the_leader(error: Exception) -> bool:
    """Whether an error says only that the leader had no time left."""
    code = error.outcome.code if isinstance(error, Aborted) else code_of_exception(error)
    return code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
