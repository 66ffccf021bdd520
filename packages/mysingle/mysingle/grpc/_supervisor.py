"""Several worker processes on one port.

The parent binds the port to reserve it and never touches gRPC: gRPC's threads and file
descriptors do not survive a fork, so each worker is a new interpreter that listens on the same
port with `SO_REUSEPORT`, and the kernel spreads connections among them.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError, StartError
from mysingle.core.logging import configure_logging
from mysingle.grpc._main import READY_FD, run, runner

if TYPE_CHECKING:
    from mysingle.grpc._server import BaseGrpcServer

__all__ = ["supervise"]

_log = logging.getLogger("mysingle.grpc")
_RESTART_DELAYS = (0.1, 0.5, 2.0, 5.0, 15.0)


def supervise(server_class: type[BaseGrpcServer], settings: CommonSettings) -> int:
    """Runs `GRPC_SERVER_WORKERS` processes until a signal; returns the exit code.

    A worker that dies is replaced, after a growing pause if it dies again and again.

    Raises:
        ConfigError: A Unix socket was asked for, which only one process can serve.
        StartError: The port is in use, or a worker did not start.
    """
    if settings.GRPC_SERVER_UNIX_SOCKET is not None:
        raise ConfigError(
            "GRPC_SERVER_UNIX_SOCKET can be served by one process only; set GRPC_SERVER_WORKERS=1"
        )
    configure_logging(settings)
    reserved = _reserve(settings)
    with reserved, tempfile.TemporaryDirectory(prefix="mysingle-metrics-") as metrics:
        supervisor = _Supervisor(server_class, settings, reserved.getsockname()[1], metrics)
        runner(supervisor.run())
    return 0


def _reserve(settings: CommonSettings) -> socket.socket:
    """A socket that holds the port, bound but not listening."""
    host = settings.GRPC_SERVER_HOST.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host, settings.GRPC_SERVER_PORT)
    try:
        if settings.GRPC_SERVER_PORT:
            with socket.socket(family) as probe:  # without SO_REUSEPORT: is it really free?
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.GRPC_SERVER_HOST}:{settings.GRPC_SERVER_PORT}: "
            f"{error.strerror} (GRPC_SERVER_HOST, GRPC_SERVER_PORT)"
        ) from None
    return reserved


class _Supervisor:
    def __init__(
        self,
        server_class: type[BaseGrpcServer],
        settings: CommonSettings,
        port: int,
        metrics_directory: str,
    ) -> None:
        self._target = _path_of(server_class)
        self._settings = settings
        self._port = port
        self._metrics = metrics_directory
        self._workers: dict[int, Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        from mysingle.grpc._metrics import mark_worker_dead, prepare_multiprocess
        from mysingle.grpc._metrics_endpoint import start_metrics_server

        prepare_multiprocess(self._metrics)
        self._mark_dead = mark_worker_dead
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._stopping.set)
        count = self._settings.GRPC_SERVER_WORKERS
        endpoint = None
        try:
            if not await self._spawn_all(count):
                return
            if self._settings.GRPC_METRICS_PORT is not None:
                endpoint = start_metrics_server(
                    self._settings.GRPC_METRICS_PORT,
                    ready=lambda: len(self._workers) > 0 and not self._stopping.is_set(),
                )
            name = self._settings.SERVICE_NAME
            print(
                f"[{name}] gRPC listening on localhost:{self._port} with {count} workers",
                flush=True,
            )
            keepers = [asyncio.ensure_future(self._keep(pid)) for pid in list(self._workers)]
            await self._stopping.wait()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        finally:
            await self._stop_all()
            if endpoint is not None:
                endpoint.close()

    async def _spawn_all(self, count: int) -> bool:
        """Starts all workers; False if a signal came first."""
        stop = asyncio.ensure_future(self._stopping.wait())
        spawns = [asyncio.ensure_future(self._spawn()) for _ in range(count)]
        try:
            waiting: set[asyncio.Future[Any]] = set(spawns)
            while waiting and not stop.done():
                done, _ = await asyncio.wait({stop, *waiting}, return_when=asyncio.FIRST_COMPLETED)
                for one in done - {stop}:
                    one.result()
                waiting -= done
            return not stop.done()
        finally:
            stop.cancel()
            for one in spawns:
                one.cancel()
            await asyncio.gather(*spawns, return_exceptions=True)

    async def _spawn(self) -> int:
        """Starts one worker and waits until it serves.

        Raises:
            StartError: It ended before that; it has said why on standard error.
        """
        read_fd, write_fd = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mysingle.grpc._supervisor",
            self._target,
            env={
                **os.environ,
                READY_FD: str(write_fd),
                "GRPC_SERVER_PORT": str(self._port),
                "GRPC_SERVER_WORKERS": str(self._settings.GRPC_SERVER_WORKERS),
                "GRPC_METRICS_PORT": "",
                "PROMETHEUS_MULTIPROC_DIR": self._metrics,
            },
            pass_fds=(write_fd,),
        )
        os.close(write_fd)
        self._workers[process.pid] = process
        loop = asyncio.get_running_loop()
        ready = await loop.run_in_executor(None, os.read, read_fd, 1)
        os.close(read_fd)
        if not ready:
            code = await process.wait()
            del self._workers[process.pid]
            raise StartError(f"a worker process ended with code {code} before it was ready")
        return process.pid

    async def _keep(self, pid: int) -> None:
        """Replaces a worker whenever it ends."""
        deaths = 0
        while True:
            code = await self._workers[pid].wait()
            del self._workers[pid]
            self._mark_dead(pid)
            delay = _RESTART_DELAYS[min(deaths, len(_RESTART_DELAYS) - 1)]
            deaths += 1
            _log.error("worker %d ended with code %s; a new one starts in %s s", pid, code, delay)
            await asyncio.sleep(delay)
            while True:
                try:
                    pid = await self._spawn()
                    break
                except (StartError, OSError) as error:
                    _log.error("%s; next try in %s s", error, _RESTART_DELAYS[-1])
                    await asyncio.sleep(_RESTART_DELAYS[-1])

    async def _stop_all(self) -> None:
        await asyncio.gather(*(self._stop_one(one) for one in list(self._workers.values())))

    async def _stop_one(self, process: Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._settings.GRPC_SERVER_GRACE_SECONDS + 5)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _path_of(server_class: type[BaseGrpcServer]) -> str:
    """`module:Class`, also where the module is the program itself."""
    module = server_class.__module__
    if module == "__main__":
        spec = sys.modules["__main__"].__spec__
        if spec is None:
            raise ConfigError(
                "several workers need a module they can import: start the server with "
                "`python -m package.module` or `mysingle serve module:Class`"
            )
        module = spec.name
    return f"{module}:{server_class.__qualname__}"


def _worker(target: str) -> None:
    module, _, name = target.partition(":")
    run(getattr(importlib.import_module(module), name))


if __name__ == "__main__":
    _worker(sys.argv[1])
