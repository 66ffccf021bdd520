"""What the service is about, without any gRPC."""

from __future__ import annotations

from typing import Final

__all__ = ["INT32_MAX", "INT32_MIN", "add"]

INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1


def add(a: int, b: int) -> int:
    """The sum of two numbers.

    Raises:
        OverflowError: It does not fit an int32, so no reply could carry it.
    """
    result = a + b
    if not INT32_MIN <= result <= INT32_MAX:
        raise OverflowError(f"{a} + {b} = {result} does not fit an int32")
    return result
