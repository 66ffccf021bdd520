"""How a call ended."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from mysingle.grpc._errors import GrpcError, Metadata

__all__ = ["OK", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status a call ends with, and the exception behind it.

    Attributes:
        code: The status code the caller gets.
        message: The status message the caller gets.
        metadata: Trailing metadata that goes with the status, besides the call's own.
        error: The exception that ended the call; None for an answer or a plain abort.
    """

    code: grpc.StatusCode
    message: str = ""
    metadata: Metadata = ()
    error: BaseException | None = None

    @classmethod
    def of_error(cls, error: GrpcError) -> Outcome:
        """The outcome that a [GrpcError][] asks for."""
        return cls(error.code(), error.message, error.trailing_metadata_to_send(), error)


OK = Outcome(grpc.StatusCode.OK)
