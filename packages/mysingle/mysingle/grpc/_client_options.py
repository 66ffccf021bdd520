"""Where a client connects to, and with which options."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic_settings import DotEnvSettingsSource

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError

__all__ = ["channel_options", "configured_target", "default_settings", "retry_names"]

_SUFFIXES = ("_GRPC_TARGET", "_GRPC_ADDRESS")


def default_settings() -> CommonSettings:
    """The settings of a client that was given none, read again when the environment changes."""
    return _settings_in(frozenset(os.environ.items()), str(Path.cwd()))


@lru_cache(maxsize=8)
def _settings_in(_environment: frozenset[tuple[str, str]], _directory: str) -> CommonSettings:
    return CommonSettings()


def configured_target(service_name: str, settings: CommonSettings) -> str:
    """Where `<SERVICE_NAME>_GRPC_TARGET`, or else `<SERVICE_NAME>_GRPC_ADDRESS`, points to.

    Each is looked for as an attribute of the settings, in the environment, in
    `.env.<ENVIRONMENT>` and in `.env`.

    Returns:
        The target; empty if none is set.
    """
    stem = re.sub(r"\W", "_", service_name).upper()
    for name in (stem + suffix for suffix in _SUFFIXES):
        value = (
            getattr(settings, name, None)
            or os.environ.get(name)
            or _in_files(str(Path.cwd()), settings.ENVIRONMENT).get(name)
        )
        if value:
            return str(value)
    return ""


@lru_cache(maxsize=8)
def _in_files(_directory: str, environment: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in (".env", f".env.{environment}"):
        variables = DotEnvSettingsSource(CommonSettings, env_file=file).env_vars
        found.update({name: value for name, value in variables.items() if value})
    return found


class _Names:
    """Takes the place of a channel to learn which methods a stub has."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def _add(self, method: str, *_: Any, **__: Any) -> None:
        service, _slash, name = method.removeprefix("/").rpartition("/")
        self.found.append((service, name))

    unary_unary = unary_stream = stream_unary = stream_stream = _add


@lru_cache(maxsize=256)
def retry_names(stub_class: Any, idempotent: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The `(service, method)` pairs that a client calls idempotent; no method for all.

    Args:
        stub_class: The generated stub.
        idempotent: `Get`, `/package.Service/Get`, or `*`.

    Raises:
        ConfigError: The stub has no such method.
    """
    if not idempotent:
        return ()
    names = _Names()
    stub_class(names)
    chosen: set[tuple[str, str]] = set()
    for wanted in idempotent:
        service, _, method = wanted.removeprefix("/").rpartition("/")
        if wanted == "*":
            chosen |= {(found, "") for found, _ in names.found} or {("", "")}
            continue
        if service and not names.found:  # a stub of one's own, that asks for methods later
            chosen.add((service, method))
            continue
        matching = {pair for pair in names.found if pair[1] == method and service in ("", pair[0])}
        if not matching:
            known = ", ".join(sorted(name for _, name in names.found))
            raise ConfigError(
                f"idempotent_methods: no method {wanted!r} in the stub; it has {known}"
            )
        chosen |= matching
    return tuple(sorted(chosen))


def _service_config(attempts: int, retried: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The service config (https://github.com/grpc/grpc/blob/master/doc/service_config.md).

    Calls go to all resolved addresses in turn. Idempotent methods are retried on `UNAVAILABLE`
    after growing, random pauses; retries stop when more than about one call in ten fails, so
    that they never add to the load of a server that is failing. The transport itself sends a
    call again that certainly reached no server.
    """
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if attempts > 1 and retried:
        config["methodConfig"] = [
            {
                "name": [
                    {
                        key: value
                        for key, value in (("service", service), ("method", method))
                        if value  # no method is all methods, no service all services
                    }
                    for service, method in retried
                ],
                "retryPolicy": {
                    "maxAttempts": attempts,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return config


def channel_options(
    settings: CommonSettings, retried: Sequence[tuple[str, str]]
) -> tuple[tuple[str, Any], ...]:
    """The options of a channel (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html)."""
    config = _service_config(settings.GRPC_CLIENT_RETRY_MAX_ATTEMPTS, retried)
    reconnect = max(100, int(settings.GRPC_CLIENT_BREAKER_RESET_SECONDS * 1000))
    return (
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_receive_message_length", settings.GRPC_MAX_RECEIVE_MESSAGE_BYTES),
        ("grpc.max_send_message_length", settings.GRPC_MAX_SEND_MESSAGE_BYTES),
        ("grpc.max_metadata_size", settings.GRPC_MAX_METADATA_BYTES),
        # As often as the breaker lets a call try: gRPC's own pause grows to two minutes, in
        # which a server that is back would not be noticed.
        ("grpc.initial_reconnect_backoff_ms", min(reconnect, 200)),
        ("grpc.max_reconnect_backoff_ms", reconnect),
    )
