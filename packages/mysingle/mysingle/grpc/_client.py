"""`BaseGrpcClient`: a stub with identity, deadlines, retries and a breaker."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar
from weakref import WeakKeyDictionary

import grpc
import grpc.aio

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._breaker import CircuitBreaker
from mysingle.grpc._channel import ClientChannel, MetadataPairs, outgoing_metadata
from mysingle.grpc._tls import client_credentials

__all__ = ["BaseGrpcClient", "close_channels"]

StubT = TypeVar("StubT")


class BaseGrpcClient(Generic[StubT]):
    """A client of one service; subclass it with the service's stub.

        class MathClient(BaseGrpcClient[math_pb2_grpc.MathServiceAsyncStub]):
            stub_class = math_pb2_grpc.MathServiceStub
            service_name = "math-service"
            default_target = "localhost:50051"

        async with MathClient(user_id="alice") as client:
            reply = await client.stub.Add(math_pb2.AddRequest(a=3, b=5))

    Calls made inside of a served call carry its user id, its correlation id and what is left of
    its deadline. All clients of one target in an event loop share a connection. A call that
    fails raises [GrpcCallError][mysingle.grpc.errors.GrpcCallError].

    Args:
        target: Where the service is, as a gRPC target (`dns:///name:port`, `unix:/path`). If
            left out: the environment variable of the service name (`MATH_SERVICE_GRPC_TARGET`),
            else `default_target`.
        settings: Time-outs, TLS, retries; read from the environment if left out.
        user_id: Sent as `user-id`; that of the enclosing call if left out.
        token: Sent as bearer token.
        metadata: Sent with each call besides.

    Attributes:
        stub_class: The generated stub.
        service_name: For the environment variable.
        default_target: Where the service is if nothing else says.
        idempotent_methods: Names of methods, or `*`, that may be tried again after the server
            may have begun to serve them. Any other call is sent again only if it never reached
            a server.
        stub: The stub, inside of `async with`.
    """

    stub_class: ClassVar[Any]
    service_name: ClassVar[str] = ""
    default_target: ClassVar[str] = ""
    idempotent_methods: ClassVar[Sequence[str]] = ()
    stub: StubT

    def __init__(
        self,
        target: str | None = None,
        *,
        settings: CommonSettings | None = None,
        user_id: str = "",
        token: str = "",
        metadata: MetadataPairs = (),
    ) -> None:
        self._settings = settings or CommonSettings()
        self.target = target or self._configured_target()
        self._metadata = outgoing_metadata(user_id, token, metadata, None)

    def _configured_target(self) -> str:
        variable = re.sub(r"\W", "_", self.service_name).upper() + "_GRPC_TARGET"
        target = os.environ.get(variable) if self.service_name else None
        if not (target or self.default_target):
            raise ConfigError(f"{type(self).__name__} has no target: set {variable}")
        return target or self.default_target

    async def __aenter__(self) -> Self:
        shared = _shared_channel(
            self.target, self._settings, self.stub_class, tuple(self.idempotent_methods)
        )
        channel = ClientChannel(
            shared.channel, self.target, self._settings, shared.breaker, self._metadata
        )
        self.stub = self.stub_class(channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves the shared connection open for the next client; see [close_channels][]."""


class _Shared:
    """What the clients of one target share."""

    def __init__(self, channel: grpc.aio.Channel, breaker: CircuitBreaker) -> None:
        self.channel = channel
        self.breaker = breaker


_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Shared]] = WeakKeyDictionary()


def _shared_channel(
    target: str, settings: CommonSettings, stub_class: Any, idempotent: tuple[str, ...]
) -> _Shared:
    of_loop = _channels.setdefault(asyncio.get_running_loop(), {})
    key = (
        target,
        os.getpid(),
        stub_class if idempotent else None,
        idempotent,
        *(
            getattr(settings, name)
            for name in (
                "GRPC_CLIENT_TLS",
                "GRPC_CLIENT_TLS_CA_FILE",
                "GRPC_CLIENT_TLS_CERT_FILE",
                "GRPC_CLIENT_TLS_KEY_FILE",
                "GRPC_CLIENT_RETRY_MAX_ATTEMPTS",
                "GRPC_CLIENT_BREAKER_FAILURES",
                "GRPC_CLIENT_BREAKER_RESET_SECONDS",
                "GRPC_MAX_RECEIVE_MESSAGE_BYTES",
            )
        ),
    )
    shared = of_loop.get(key)
    if shared is None:
        shared = of_loop[key] = _Shared(
            _open(target, settings, idempotent),
            CircuitBreaker(
                settings.GRPC_CLIENT_BREAKER_FAILURES, settings.GRPC_CLIENT_BREAKER_RESET_SECONDS
            ),
        )
    return shared


def _open(target: str, settings: CommonSettings, idempotent: tuple[str, ...]) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(service_config(settings, idempotent))),
        ("grpc.max_receive_message_length", settings.GRPC_MAX_RECEIVE_MESSAGE_BYTES),
        ("grpc.max_send_message_length", settings.GRPC_MAX_SEND_MESSAGE_BYTES),
    ]
    credentials = client_credentials(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def service_config(settings: CommonSettings, idempotent: Sequence[str]) -> dict[str, Any]:
    """The service config (https://github.com/grpc/grpc/blob/master/doc/service_config.md).

    Calls go to all resolved addresses in turn. Idempotent methods are retried on `UNAVAILABLE`
    with growing pauses; retries stop when more than about one call in ten fails, so that they
    never add to the load of a server that is failing.
    """
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    attempts = settings.GRPC_CLIENT_RETRY_MAX_ATTEMPTS
    if attempts > 1 and idempotent:
        config["methodConfig"] = [
            {
                "name": [_name_of(method) for method in idempotent],
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


def _name_of(method: str) -> dict[str, str]:
    """`*` is every method; others are full names such as `/math.MathService/Add`."""
    if method == "*":
        return {}
    service, slash, name = method.removeprefix("/").partition("/")
    if not slash:
        raise ConfigError(
            f"idempotent_methods: {method!r} is no full name such as '/math.MathService/Add'"
        )
    return {"service": service, "method": name}


async def close_channels() -> None:
    """Closes the shared connections of this event loop."""
    for shared in _channels.pop(asyncio.get_running_loop(), {}).values():
        await shared.channel.close()
