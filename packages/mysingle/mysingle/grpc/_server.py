"""`BaseGrpcServer`: the lifecycle around servicers, chain and engine."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, ClassVar, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import MysingleError, StartError
from mysingle.core.logging import configure_logging
from mysingle.grpc._cache import GrpcCache
from mysingle.grpc._chain import standard_chain
from mysingle.grpc._compose import compose
from mysingle.grpc._config import GrpcServerConfig
from mysingle.grpc._method import Method
from mysingle.grpc._metrics_endpoint import MetricsServer, start_metrics_server
from mysingle.grpc._reflection import add_reflection
from mysingle.grpc._registrar import Registrar
from mysingle.grpc._tracing import tracing_step
from mysingle.grpc.engines._base import Engine, HandlerTable
from mysingle.grpc.engines._grpcio import GrpcioEngine, server_address
from mysingle.grpc.interceptors import Interceptor

__all__ = ["BaseGrpcServer"]

_log = logging.getLogger("mysingle.grpc")
_ANY_HOST = ("[::]", "::", "0.0.0.0", "127.0.0.1", "[::1]", "::1")  # noqa: S104  # compared to
_Status = health_pb2.HealthCheckResponse.ServingStatus


class BaseGrpcServer(ABC):
    """A gRPC server with the standard chain, health, reflection and a graceful end.

    Subclass it, register your servicers, and either await [start][] inside a program of yours
    or call [main][] as the program:

        class MathServer(BaseGrpcServer):
            settings_class = MathSettings

            def register_servicers(self, server):
                math_pb2_grpc.add_MathServiceServicer_to_server(MathService(), server)

        if __name__ == "__main__":
            MathServer.main()

    Lifecycle: `before_start` → `register_servicers` → listen → `after_start` → SERVING … →
    NOT_SERVING → `before_stop` → stop accepting, let calls finish → `after_stop`.

    Attributes:
        settings_class: What [main][] and `mysingle serve` read the settings with.
        config: What the server was made with.
    """

    settings_class: ClassVar[type[CommonSettings]] = CommonSettings

    def __init__(self, config: GrpcServerConfig) -> None:
        self.config = config
        self._health = health.aio.HealthServicer()
        self._engine: Engine | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._chain: tuple[Interceptor, ...] = ()
        self._metrics: MetricsServer | None = None
        self._services: list[str] = []
        self._health_set: set[str] = set()
        self._servicers: list[Any] = []
        self._port = 0
        self._state = "new"
        self._stopped = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_asked = False

    # -- For subclasses ---------------------------------------------------------------------

    @abstractmethod
    def register_servicers(self, server: Any) -> None:
        """Calls the generated `add_…Servicer_to_server(servicer, server)` functions."""

    async def before_start(self) -> None:
        """Runs first: open what the servicers need."""

    async def after_start(self) -> None:
        """Runs when the port is open, before health says SERVING."""

    async def before_stop(self) -> None:
        """Runs when health says NOT_SERVING, while calls are still served."""

    async def after_stop(self) -> None:
        """Runs last: close what was opened. Runs too when the start fails, at whatever point."""

    # -- For callers --------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is served, which the configuration may have left open; 0 for none."""
        return self._port

    @property
    def address(self) -> str:
        """Where a client on this machine reaches the server, as a gRPC target."""
        if self.config.settings.GRPC_SERVER_UNIX_SOCKET is not None:
            return server_address(self.config.settings)
        host = self.config.settings.GRPC_SERVER_HOST
        return f"{'localhost' if host in _ANY_HOST else host}:{self._port}"

    @property
    def metrics_port(self) -> int | None:
        """The port of `/metrics`; None where it is not served."""
        return self._metrics.port if self._metrics is not None else None

    @property
    def is_serving(self) -> bool:
        """Whether calls are welcome: started, and no stop begun."""
        return self._state == "serving"

    async def start(self) -> None:
        """Starts to serve and returns.

        Raises:
            StartError: A hook failed, the port is in use, or the server was started before.
            ConfigError: A setting or certificate is wrong.
        """
        if self._state != "new":
            raise StartError(f"{type(self).__name__} was started before; make a new one")
        self._state = "starting"
        self._starting = asyncio.current_task()
        try:
            await self._start()
        except BaseException as error:
            try:
                await self._release(grace=0.0)
            except Exception:  # the first error is the one to tell
                _log.exception("the start failed, and so did what should tidy up after it")
            task = asyncio.current_task()
            if self._stop_asked and isinstance(error, asyncio.CancelledError) and task:
                task.uncancel()  # it was stop() that cancelled it, not whoever runs this task
                raise StartError(f"{type(self).__name__} was stopped while it started") from None
            raise
        finally:
            self._starting = None
        _log.info(
            "%s serves %s on %s",
            self.config.service_name,
            ", ".join(self._services) or "nothing",
            self.address,
        )

    async def _start(self) -> None:
        settings = self.config.settings
        configure_logging(settings)
        self._chain = standard_chain(
            settings, [one for one in self.config.interceptors if isinstance(one, Interceptor)]
        )
        await self._hook(self.before_start)
        tracing = tracing_step(settings)  # now, since the hook may have set up OpenTelemetry
        if tracing is not None:
            self._chain = (tracing, *self._chain)
        registrar = self._registered()
        self._pool = ThreadPoolExecutor(
            settings.GRPC_SERVER_MAX_WORKERS, thread_name_prefix="servicer"
        )
        for name in ("", *self._services):
            await self._health.set(name, _Status.NOT_SERVING)
        self._engine = GrpcioEngine(settings)
        self._port = await self._engine.start(self._composed(registrar))
        if settings.GRPC_METRICS_PORT is not None:
            self._metrics = start_metrics_server(
                settings.GRPC_METRICS_PORT, ready=lambda: self.is_serving
            )
        await self._hook(self.after_start)
        for name in ("", *self._services):
            if name not in self._health_set:  # the hook may know better
                await self._health.set(name, _Status.SERVING)
        self._state = "serving"

    async def stop(self, grace: float | None = None) -> None:
        """Stops: NOT_SERVING, no new calls, running ones finish, the rest is cancelled.

        Stopping a server that is not started, or is stopped already, does nothing.

        Args:
            grace: Seconds for running calls; `GRPC_SERVER_GRACE_SECONDS` if left out.

        Raises:
            StartError: A hook failed; the server is stopped all the same.
        """
        task = asyncio.current_task()
        if self._starting is not None:
            if self._starting is not task:
                self._stop_asked = True
                self._starting.cancel()
                await self._stopped.wait()
            return
        if self._state in ("new", "stopped") or self._stopping is task:
            return
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(grace))
        # Whoever asked may be cancelled; the stop goes on to its end.
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float | None) -> None:
        self._state = "stopping"
        await self._health.enter_graceful_shutdown()
        if grace is None:
            grace = self.config.settings.GRPC_SERVER_GRACE_SECONDS
        failed: MysingleError | None = None
        try:
            await self._hook(self.before_stop)
        except MysingleError as error:
            failed = error
        await self._release(grace)
        if failed is not None:
            raise failed

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._stopped.wait()

    wait_for_termination = wait

    async def set_health(self, service: str, *, serving: bool) -> None:
        """Says of one service, or of all by `""`, whether it can be used just now."""
        self._health_set.add(service)
        await self._health.set(service, _Status.SERVING if serving else _Status.NOT_SERVING)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @classmethod
    def main(cls) -> None:
        """Runs the server as a program, until SIGTERM or Ctrl-C, and exits.

        Settings come from `settings_class`. With `GRPC_SERVER_WORKERS` above 1 it starts that
        many processes on one port. What the operator did wrong is one line on standard error
        and exit code 1.
        """
        from mysingle.grpc._main import run

        run(cls)

    # -- Inside -------------------------------------------------------------------------------

    def _registered(self) -> Registrar:
        settings = self.config.settings
        registrar = Registrar()
        try:
            self.register_servicers(registrar)
        except MysingleError:
            raise
        except Exception as error:
            raise self._failed("register_servicers", error) from error
        self._services = registrar.service_names
        self._servicers = registrar.servicers()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)
        if settings.GRPC_SERVER_ENABLE_REFLECTION:
            names = settings.GRPC_SERVER_REFLECTION_SERVICE_NAMES or registrar.service_names
            add_reflection(registrar, names)
        return registrar

    def _composed(self, registrar: Registrar) -> HandlerTable:
        foreign = tuple(
            one for one in self.config.interceptors if isinstance(one, grpc.aio.ServerInterceptor)
        )

        def wrap(
            method: Method, handler: grpc.RpcMethodHandler[Any, Any]
        ) -> grpc.RpcMethodHandler[Any, Any]:
            limit = self.config.settings.GRPC_MAX_SEND_MESSAGE_BYTES
            return compose(method, handler, self._chain, foreign, self._pool, limit)

        @lru_cache(maxsize=1024)  # those who ask for methods that do not exist fill nothing
        def remembered(
            full_name: str, handler: grpc.RpcMethodHandler[Any, Any]
        ) -> grpc.RpcMethodHandler[Any, Any]:
            return wrap(Method.of(full_name, handler), handler)

        def lookup(details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            for generic in registrar.generic:
                handler = generic.service(details)
                if handler is not None:
                    return remembered(details.method, handler)
            return None

        return HandlerTable(
            {method.full_name: wrap(method, handler) for method, handler in registrar}, lookup
        )

    async def _release(self, grace: float) -> None:
        """Gives back all that the start took, in reverse order."""
        try:
            async with AsyncExitStack() as stack:  # each step runs, whatever another one raises
                for step in reversed(self._chain):
                    stack.push_async_callback(step.close)
                stack.push_async_callback(self._hook, self.after_stop)
                for servicer in self._servicers:
                    cache = getattr(servicer, "_grpc_cache", None)
                    if isinstance(cache, GrpcCache):
                        stack.push_async_callback(cache.close)
                if self._pool is not None:
                    stack.callback(self._pool.shutdown, wait=False)
                if self._metrics is not None:
                    stack.callback(self._metrics.close)
                if self._engine is not None:
                    stack.push_async_callback(self._engine.stop, grace)
        finally:
            self._state = "stopped"
            self._stopped.set()

    async def _hook(self, hook: Callable[[], Awaitable[None]]) -> None:
        try:
            await hook()
        except MysingleError:
            raise
        except Exception as error:
            raise self._failed(getattr(hook, "__name__", "a hook"), error) from error

    def _failed(self, what: str, error: Exception) -> StartError:
        return StartError(f"{type(self).__name__}.{what} failed: {type(error).__name__}: {error}")
