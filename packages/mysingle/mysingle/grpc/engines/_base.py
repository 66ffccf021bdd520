"""What an engine is: transport, and nothing of the chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc

from mysingle.core.config import CommonSettings

__all__ = ["Engine", "HandlerTable"]


class HandlerTable:
    """Ready handlers by full method name; bytes in and bytes out.

    Args:
        by_name: Handlers of methods known at the start.
        lookup: Asked with method and metadata for any other; None if it serves no such method.
    """

    def __init__(
        self,
        by_name: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        lookup: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
    ) -> None:
        self._by_name = dict(by_name)
        self._lookup = lookup

    def find(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a call; None answers `UNIMPLEMENTED`."""
        return self._by_name.get(details.method) or self._lookup(details)


class Engine(Protocol):
    """Moves bytes between the wire and handlers. One instance serves one start."""

    def __init__(self, settings: CommonSettings) -> None: ...

    async def start(self, handlers: HandlerTable) -> int:
        """Binds and serves.

        Returns:
            The port; 0 for a Unix socket.

        Raises:
            StartError: The address cannot be bound; one line names it.
        """

    async def stop(self, grace: float) -> None:
        """Stops accepting, lets calls finish for `grace` seconds, cancels the rest."""

    async def wait(self) -> None:
        """Returns when the server has stopped."""
