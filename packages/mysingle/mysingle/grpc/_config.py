"""What one server is started with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["GrpcServerConfig"]

_PREFIXES = ("GRPC_SERVER_", "GRPC_", "")


class GrpcServerConfig:
    """The settings of one server, with overrides applied and checked.

    Make it with [from_settings][GrpcServerConfig.from_settings]. Each option is a setting under
    its short name: `config.port` is `GRPC_SERVER_PORT`, `config.enable_auth` is
    `GRPC_ENABLE_AUTH`, `config.rate_limit_max_requests` is `GRPC_RATE_LIMIT_MAX_REQUESTS`.

    Attributes:
        settings: The settings after the overrides.
        interceptors: Your own, inside the standard chain; ours or grpcio's kind.
    """

    def __init__(
        self,
        settings: CommonSettings,
        *,
        interceptors: Sequence[Interceptor | grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self.settings = settings
        self.interceptors = tuple(interceptors)

    @classmethod
    def from_settings(
        cls,
        settings: CommonSettings,
        service_name: str = "",
        *,
        interceptors: Sequence[Interceptor | grpc.aio.ServerInterceptor] = (),
        **overrides: Any,
    ) -> GrpcServerConfig:
        """The configuration that the settings ask for.

        Args:
            settings: The service's settings.
            service_name: For logs, metrics and traces; `SERVICE_NAME` if left out.
            interceptors: Your own, run inside the standard chain in this order.
            **overrides: Settings under their short names, such as `port=50099` or
                `enable_auth=False`; None leaves a setting as it is.

        Raises:
            ConfigError: An option is unknown or its value wrong; one line names it.
        """
        values = {
            _setting_of(option, type(settings)): value
            for option, value in overrides.items()
            if value is not None
        }
        if service_name and service_name != settings.SERVICE_NAME:
            values["SERVICE_NAME"] = service_name  # logs, limits and traces go by it too
        return cls(settings.override(**values) if values else settings, interceptors=interceptors)

    @property
    def service_name(self) -> str:
        """For logs, metrics and traces."""
        return self.settings.SERVICE_NAME

    def __getattr__(self, option: str) -> Any:
        if option.startswith("_") or "settings" not in self.__dict__:
            raise AttributeError(option)
        try:
            return getattr(self.settings, _setting_of(option, type(self.settings)))
        except ConfigError as error:
            raise AttributeError(str(error)) from None

    def __repr__(self) -> str:
        return f"GrpcServerConfig({self.service_name!r}, port={self.port})"


def _setting_of(option: str, settings: type[CommonSettings]) -> str:
    """`max_workers` → `GRPC_SERVER_MAX_WORKERS`."""
    for prefix in _PREFIXES:
        name = prefix + option.upper()
        if name in settings.model_fields:
            return name
    known = [
        name.removeprefix("GRPC_").removeprefix("SERVER_").lower() for name in settings.model_fields
    ]
    near = difflib.get_close_matches(option, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown option {option!r}{hint}")
