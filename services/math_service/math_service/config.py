"""Settings of the service."""

from __future__ import annotations

from mysingle.core.config import CommonSettings

__all__ = ["MathSettings"]


class MathSettings(CommonSettings):
    """The common settings under the service's own name."""

    SERVICE_NAME: str = "math-service"
