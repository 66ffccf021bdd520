"""The workspace: where its root is and which services it has."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mysingle.core.errors import ConfigError

__all__ = ["Ports", "Service", "discover", "find_root", "select"]

_KEYS = {
    "command": str,
    "grpc_port": int,
    "http_port": int,
    "metrics_port": int,
    "depends_on": list,
    "try": str,
    "demo": str,
}


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one service; None for those it does not serve."""

    grpc: int | None = None
    http: int | None = None
    metrics: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service, as the table `[tool.mysingle.service]` of its `pyproject.toml` describes it.

    `{grpc_port}`, `{http_port}` and `{metrics_port}` in the commands stand for the ports in use.

    Attributes:
        name: The name of its directory, such as `math_service`.
        directory: Where it lies; it runs there, so that its `.env` files are read.
        command: What starts it.
        ports: Its default ports.
        depends_on: Names of the services that must serve before it starts.
        try_line: A command that shows it at work.
        demo: A command that makes real calls and exits with 0 if every answer was right.
    """

    name: str
    directory: Path
    command: str
    ports: Ports
    depends_on: tuple[str, ...] = ()
    try_line: str = ""
    demo: str = ""

    def fill(self, text: str, ports: Ports) -> str:
        """The command with the ports put in."""
        for name, port in (("grpc", ports.grpc), ("http", ports.http), ("metrics", ports.metrics)):
            text = text.replace(f"{{{name}_port}}", str(port or ""))
        return text

    def argv(self, command: str, ports: Ports) -> list[str]:
        """The command with the ports put in, as words."""
        return shlex.split(self.fill(command, ports))


def find_root(start: Path | None = None) -> Path:
    """The directory of the workspace that `start`, or the current directory, lies in.

    Raises:
        ConfigError: It lies in none.
    """
    start = (start or Path.cwd()).resolve()
    for directory in (start, *start.parents):
        file = directory / "pyproject.toml"
        if file.is_file() and "workspace" in _tool_table(file, "uv"):
            return directory
    raise ConfigError(
        f"{start} is not inside a workspace: "
        "no pyproject.toml with [tool.uv.workspace] here or above"
    )


def discover(root: Path) -> dict[str, Service]:
    """Every service under `services/`, by name.

    Raises:
        ConfigError: A table is wrong; the line names the file.
    """
    services = {}
    for file in sorted(root.glob("services/*/pyproject.toml")):
        table = _tool_table(file, "mysingle").get("service")
        if table is not None:
            service = _service_of(file, table)
            services[service.name] = service
    for service in services.values():
        for name in service.depends_on:
            if name not in services:
                raise ConfigError(
                    f"{service.directory / 'pyproject.toml'}: depends_on names {name!r}, "
                    f"and there is no such service ({', '.join(services)})"
                )
    return services


def select(services: dict[str, Service], names: Iterable[str] = ()) -> list[Service]:
    """The named services and all they depend on (every service for no names), in start order.

    Raises:
        ConfigError: A name is unknown, or services depend on one another in a circle.
    """
    wanted = list(names) or list(services)
    graph: dict[str, Sequence[str]] = {}
    while wanted:
        name = wanted.pop()
        found = services.get(name) or services.get(f"{name}_service")
        if found is None:
            raise ConfigError(f"no service {name!r}; there are: {', '.join(services) or 'none'}")
        if found.name not in graph:
            graph[found.name] = found.depends_on
            wanted.extend(found.depends_on)
    try:
        order = tuple(TopologicalSorter(dict(sorted(graph.items()))).static_order())
    except CycleError as error:
        raise ConfigError(f"depends_on goes in a circle: {' → '.join(error.args[1])}") from None
    return [services[name] for name in order]


def _tool_table(file: Path, tool: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get(tool, {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return table if isinstance(table, dict) else {}


def _service_of(file: Path, table: dict[str, Any]) -> Service:
    where = f"{file}: [tool.mysingle.service]"
    for key, value in table.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(_KEYS)}")
        if type(value) is not kind:
            raise ConfigError(f"{where}: {key} must be a {kind.__name__}")
    if not table.get("command"):
        raise ConfigError(f"{where}: command is missing")
    ports = Ports(table.get("grpc_port"), table.get("http_port"), table.get("metrics_port"))
    if ports.grpc is None and ports.http is None:
        raise ConfigError(f"{where}: needs a grpc_port or an http_port")
    return Service(
        name=file.parent.name,
        directory=file.parent,
        command=table["command"],
        ports=ports,
        depends_on=tuple(table.get("depends_on", ())),
        try_line=table.get("try", ""),
        demo=table.get("demo", ""),
    )
