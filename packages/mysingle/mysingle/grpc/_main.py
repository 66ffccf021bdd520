"""A server as a program: settings, signals, worker processes, exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from mysingle.core.config import CommonSettings
from mysingle.core.errors import MysingleError

if TYPE_CHECKING:
    from mysingle.grpc._server import BaseGrpcServer

__all__ = ["run", "serve_until_signal"]

READY_FD = "MYSINGLE_READY_FD"
THREADS = "servicer"


def run(server_class: type[BaseGrpcServer], settings: CommonSettings | None = None) -> NoReturn:
    """Serves until SIGTERM or SIGINT, then exits: 0 after a stop, 1 if it could not start."""
    try:
        settings = settings or server_class.settings_class()
        if READY_FD in os.environ:
            settings = settings.override(
                GRPC_METRICS_PORT=None
            )  # the supervisor serves those of all
        elif settings.GRPC_SERVER_WORKERS > 1:
            from mysingle.grpc._supervisor import supervise

            sys.exit(supervise(server_class, settings))
        runner(serve_until_signal(server_class, settings))
    except MysingleError as error:
        print(f"{server_class.__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    _leave()


def _leave() -> NoReturn:
    """Exits; a servicer that still runs in a thread, which nothing can stop, is left behind."""
    if any(thread.name.startswith(THREADS) for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    sys.exit(0)


def runner(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine, on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as loop:
        loop.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve_until_signal(server_class: type[BaseGrpcServer], settings: CommonSettings) -> None:
    """Starts a server and stops it gracefully at the first signal; a second one ends it now.

    Raises:
        ConfigError: A setting is wrong.
        StartError: The server cannot start.
    """
    from mysingle.grpc._config import GrpcServerConfig

    server = server_class(GrpcServerConfig.from_settings(settings))
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if asked.is_set() else asked).set()

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, on_signal)
    starting = asyncio.ensure_future(server.start())
    stop_asked = asyncio.ensure_future(asked.wait())
    await asyncio.wait({starting, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # a signal while before_start hangs
        starting.cancel()
        hurrying = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({starting, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            os._exit(130)
        return
    await starting
    _say_ready(server)
    await asyncio.wait(
        {stop_asked, asyncio.ensure_future(server.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    stopping = asyncio.ensure_future(server.stop())
    hurrying = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        os._exit(130)
    await stopping


def _say_ready(server: BaseGrpcServer) -> None:
    ready_fd = os.environ.pop(READY_FD, None)  # not for children of ours
    if ready_fd is not None:
        os.write(int(ready_fd), b"1")
        os.close(int(ready_fd))
        return
    print(f"[{server.config.service_name}] gRPC listening on {server.address}", flush=True)
    if server.metrics_port is not None:
        print(
            f"[{server.config.service_name}] metrics on http://localhost:{server.metrics_port}/metrics",
            flush=True,
        )
