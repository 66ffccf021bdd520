"""Redis and the services, started in order, watched and stopped in reverse order."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mysingle.cli._child import Child
from mysingle.cli._ports import check_free, free_ports_for
from mysingle.cli._ready import wait_http, wait_serving
from mysingle.cli._workspace import Ports, Service
from mysingle.core.errors import StartError

__all__ = ["GRACE_SECONDS", "START_SECONDS", "Platform"]

START_SECONDS = 60.0
"""How long a service may take until it says that it serves."""
GRACE_SECONDS = 20.0
"""How long a service may take to end after SIGTERM before it is killed."""


def _nothing(*_: object) -> None:
    pass


class Platform:
    """Some services of a workspace, running.

    Args:
        root: The directory of the workspace.
        services: What to run, each after those it depends on.
        free_ports: Take free ports instead of the default ones.
        environment: `ENVIRONMENT` of the services; None leaves it as it is.
        state: Where Redis keeps its files; `<root>/.mysingle` by default.
        on_ready: Called with each service when it serves.
        output: Called with the name of the service and each line it prints.
        on_exit: Called with the name and exit code of a service that ended by itself.

    Attributes:
        ports: The ports of each service, by name.
        redis_url: The Redis that the services use.
    """

    def __init__(
        self,
        root: Path,
        services: Sequence[Service],
        *,
        free_ports: bool = False,
        environment: str | None = None,
        state: Path | None = None,
        on_ready: Callable[[Service], None] = _nothing,
        output: Callable[[str, str], None] = _nothing,
        on_exit: Callable[[str, int], None] = _nothing,
    ) -> None:
        self.root = root
        self.services = tuple(services)
        self.redis_url = os.environ.get("REDIS_URL", "")
        self._environment = environment
        self._state = state or root / ".mysingle"
        self._on_ready = on_ready
        self._output = output
        self._on_exit = on_exit
        self._redis: Child | None = None
        self._children: dict[str, Child] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        taken: set[int] = set()
        self.ports = {
            one.name: free_ports_for(one, taken) if free_ports else one.ports
            for one in self.services
        }
        self._free_ports = free_ports

    @property
    def running(self) -> list[str]:
        """Names of the services whose process is alive."""
        return list(self._children)

    def environment_of(self, service: Service) -> dict[str, str]:
        """All environment variables of a service, those of the caller included.

        Every service is told where every other is: `MATH_SERVICE_GRPC_TARGET`,
        `API_SERVICE_HTTP_URL`, `MATH_SERVICE_METRICS_URL`.
        """
        binaries = str(Path(sys.executable).parent)
        own = self.ports[service.name]
        variables = {
            **os.environ,
            "PATH": os.pathsep.join((binaries, os.environ.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": self.redis_url,
            "LOG_FILE": str(self.root / "logs" / "app.log"),
            # An empty value counts as unset, and hides one that the caller has.
            "GRPC_SERVER_PORT": str(own.grpc or ""),
            "GRPC_METRICS_PORT": str(own.metrics or ""),
            "HTTP_PORT": str(own.http or ""),
        }
        variables.setdefault("LOG_FORMAT", "console")
        if self._environment is not None:
            variables["ENVIRONMENT"] = self._environment
        for name, ports in self.ports.items():
            variables.update(_addresses(name, ports))
        return variables

    async def start(self) -> None:
        """Starts everything and returns when all of it serves; on failure nothing is left.

        Raises:
            StartError: A port is in use, or a service ended or did not get ready in time.
        """
        try:
            if not self._free_ports:
                taken: dict[int, str] = {}
                for service in self.services:
                    check_free(service, self.ports[service.name], taken)
            (self.root / "logs").mkdir(exist_ok=True)
            await self._start_redis()
            starts: dict[str, asyncio.Task[None]] = {}
            for service in self.services:
                before = [starts[name] for name in service.depends_on]
                starts[service.name] = asyncio.create_task(self._start_service(service, before))
            try:
                await asyncio.gather(*starts.values())
            finally:
                for task in starts.values():
                    task.cancel()
                await asyncio.wait(starts.values())
        except BaseException:
            await self.stop()
            raise
        for child in self._children.values():
            self._watchers.append(asyncio.create_task(self._watch(child)))

    async def stop(self) -> None:
        """Stops each service when those that depend on it have drained; Redis last."""
        self._stopping = True
        stops: dict[str, asyncio.Task[None]] = {}
        for service in reversed(self.services):
            child = self._children.get(service.name)
            if child is not None:
                users = [
                    stops[other.name]
                    for other in self.services
                    if service.name in other.depends_on and other.name in stops
                ]
                stops[service.name] = asyncio.create_task(_stop_after(child, users))
        await asyncio.gather(*stops.values())
        await asyncio.gather(*self._watchers)
        self._children.clear()
        if self._redis is not None:
            redis, self._redis = self._redis, None
            await redis.stop()

    def kill(self) -> None:
        """Has a stop that is under way wait for nothing."""
        for child in self._children.values():
            child.kill()

    async def run(self, service: Service, command: str, output: Callable[[str], None]) -> int:
        """Runs a command in the directory and environment of a service; returns its exit code."""
        child = await Child.spawn(
            service.name,
            service.argv(command, self.ports[service.name]),
            directory=service.directory,
            environment=self.environment_of(service),
            grace=GRACE_SECONDS,
            output=lambda _name, line: output(line),
        )
        try:
            return await child.wait()
        finally:
            await child.stop()

    async def _start_redis(self) -> None:
        if self.redis_url:
            return
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def said(_name: str, line: str) -> None:
            if line.startswith("redis://") and not url.done():
                url.set_result(line)

        self._redis = await Child.spawn(
            "redis",
            ("python", "-m", "mysingle.cli._redis", str(self._state / "redis")),
            directory=self.root,
            environment=os.environ,
            grace=GRACE_SECONDS,
            output=said,
        )
        ending = asyncio.create_task(self._redis.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {ending, url}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not url.done():
                raise StartError(" ".join(self._redis.tail) or "Redis did not start")
            self.redis_url = url.result()
        finally:
            ending.cancel()

    async def _start_service(self, service: Service, before: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*before)
        ports = self.ports[service.name]
        child = await Child.spawn(
            service.name,
            service.argv(service.command, ports),
            directory=service.directory,
            environment=self.environment_of(service),
            grace=GRACE_SECONDS,
            output=self._output,
        )
        self._children[service.name] = child
        ending = asyncio.create_task(child.wait())
        ready = asyncio.create_task(_wait_ready(ports))
        try:
            await asyncio.wait(
                {ending, ready}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if ending.done():
                raise StartError(_death(child, ending.result()))
            if not ready.done():
                raise StartError(
                    f"{service.name} does not serve after {START_SECONDS:.0f} s{_tail(child)}"
                )
            await ready
        finally:
            ready.cancel()
            ending.cancel()
        self._on_ready(service)

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        if not self._stopping:
            self._children.pop(child.name, None)
            self._on_exit(child.name, code)
            await child.stop()


async def _wait_ready(ports: Ports) -> None:
    if ports.grpc is not None:
        await wait_serving(f"localhost:{ports.grpc}")
    if ports.http is not None:
        await wait_http(f"http://localhost:{ports.http}/readyz")


async def _stop_after(child: Child, users: Sequence[asyncio.Task[None]]) -> None:
    if users:
        await asyncio.wait(users)
    await child.stop()


def _addresses(name: str, ports: Ports) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    variables = {}
    if ports.grpc is not None:
        variables[f"{prefix}_GRPC_TARGET"] = f"localhost:{ports.grpc}"
    if ports.http is not None:
        variables[f"{prefix}_HTTP_URL"] = f"http://localhost:{ports.http}"
    metrics = ports.metrics or ports.http
    if metrics is not None:
        variables[f"{prefix}_METRICS_URL"] = f"http://localhost:{metrics}/metrics"
    return variables


def _death(child: Child, code: int) -> str:
    return f"{child.name} ended with code {code} before it served{_tail(child)}"


def _tail(child: Child) -> str:
    if not child.tail:
        return "; it printed nothing"
    return "; its last lines were:\n" + "\n".join(f"  {line}" for line in child.tail)
