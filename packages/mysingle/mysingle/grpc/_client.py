"""`BaseGrpcClient`: a stub with identity, deadlines, retries and a breaker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._channel import ClientChannel
from mysingle.grpc._client_metadata import MetadataPairs, OutgoingMetadata
from mysingle.grpc._client_options import configured_target, default_settings, retry_names
from mysingle.grpc._client_pool import SharedTransport, acquire, close_channels

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

    Calls made inside of a served call carry its user id, its correlation id, its trace and what
    is left of its deadline. All clients of one target in an event loop share a connection, so
    that making one for each request costs little. A call that fails raises
    [GrpcCallError][mysingle.grpc.errors.GrpcCallError] where it is awaited, read or written:
    with `UNAVAILABLE` and `retry_after` while the target's circuit breaker is open, and with
    `DEADLINE_EXCEEDED`, unsent, where the enclosing call has no time left.

    A client belongs to one event loop and may make any number of calls at once.

    Args:
        target: Where the service is, as a gRPC target: `name:port` or `dns:///name:port` (calls
            go to all addresses of the name in turn), `ipv4:10.0.0.1:50051,10.0.0.2:50051`,
            `unix:/path`. If left out: `MATH_SERVICE_GRPC_TARGET` or `MATH_SERVICE_GRPC_ADDRESS`
            (after `service_name`) in settings, environment or `.env` files, else
            `default_target`.
        settings: Time-outs, TLS, retries; read from the environment if left out.
        user_id: Sent as `user-id`; that of the enclosing call if left out.
        token: A JWT, sent as `authorization: Bearer`.
        timeout: Seconds for each call that is not given its own; never longer than the
            enclosing call has left. If left out: what that has left, or
            `GRPC_CLIENT_TIMEOUT_SECONDS` outside of any call. `math.inf` is no deadline.
        metadata: Sent with each call besides.

    Attributes:
        stub_class: The generated stub.
        service_name: For the name of the setting.
        default_target: Where the service is if nothing else says.
        idempotent_methods: Methods that may be tried again after a server may have begun to
            serve them, as `Get`, `/package.Service/Get`, or `*` for all. Any other call is sent
            again only if it certainly reached no server.

    Raises:
        ConfigError: There is no target, or an idempotent method that the stub does not have.
        ValueError: `timeout` is not positive, or a value cannot be sent as metadata.
    """

    stub_class: ClassVar[Any]
    service_name: ClassVar[str] = ""
    default_target: ClassVar[str] = ""
    idempotent_methods: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        target: str | None = None,
        *,
        settings: CommonSettings | None = None,
        user_id: str | None = None,
        token: str | None = None,
        timeout: float | None = None,
        metadata: MetadataPairs = (),
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be positive, not {timeout}")
        self._settings = settings or default_settings()
        self.target = target or self._configured_target()
        self._timeout = timeout
        self._metadata = OutgoingMetadata(
            user_id or "", token or "", metadata, tracing=self._settings.GRPC_ENABLE_TRACING
        )
        self._retried = retry_names(self.stub_class, tuple(self.idempotent_methods))
        self._transports: list[SharedTransport] = []
        self._stub: StubT | None = None

    def _configured_target(self) -> str:
        target = ""
        if self.service_name:
            target = configured_target(self.service_name, self._settings)
        if not (target or self.default_target):
            name = f"{self.service_name or 'its service'}".replace("-", "_").upper()
            raise ConfigError(f"{type(self).__name__} has no target: set {name}_GRPC_TARGET")
        return target or self.default_target

    @property
    def stub(self) -> StubT:
        """The stub, inside of `async with`.

        Raises:
            RuntimeError: Outside of it.
        """
        if self._stub is None:
            raise RuntimeError(f"use {type(self).__name__} inside of `async with`")
        return self._stub

    @property
    def channel(self) -> ClientChannel:
        """The channel under the stub, for other stubs of the same server.

        Raises:
            RuntimeError: Outside of `async with`.
        """
        if not self._transports:
            raise RuntimeError(f"use {type(self).__name__} inside of `async with`")
        return ClientChannel(
            self._transports[-1],
            self._metadata,
            self._timeout,
            self._settings.GRPC_CLIENT_TIMEOUT_SECONDS,
        )

    async def __aenter__(self) -> Self:
        self._transports.append(await acquire(self.target, self._settings, self._retried))
        self._stub = cast(StubT, self.stub_class(self.channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves the shared connection open for the next client; see [close_channels][]."""
        transport = self._transports.pop()
        if not self._transports:
            self._stub = None
        await transport.release()
