"""Settings of the service."""

from __future__ import annotations

from mysingle.core.config import CommonSettings

__all__ = ["ApiSettings"]


class ApiSettings(CommonSettings):
    """The common settings under the service's own name.

    Where math_service is, its client reads from `MATH_SERVICE_GRPC_TARGET`.
    """

    SERVICE_NAME: str = "api-service"
