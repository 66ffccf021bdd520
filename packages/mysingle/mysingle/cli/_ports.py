"""Ports that are free, and those that are not."""

from __future__ import annotations

import random
import socket

from mysingle.cli._workspace import Ports, Service
from mysingle.core.errors import StartError

__all__ = ["check_free", "free_port", "free_ports_for", "is_free"]

# Below the range that systems give to outgoing connections, so that none takes a port between
# the moment it is found free and the moment the service listens on it.
_RANGE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, on any address of either family."""
    for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104
        try:
            probe = socket.socket(family)
        except OSError:  # this machine has no such family
            continue
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                if error.errno is not None and family == socket.AF_INET6 and not _has_ipv6():
                    continue
                return False
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port(taken: set[int]) -> int:
    """A port that is free and not in `taken`, to which it is added.

    Raises:
        StartError: None was found.
    """
    for port in random.sample(_RANGE, 500):
        if port not in taken and is_free(port):
            taken.add(port)
            return port
    raise StartError("no free port found between 20000 and 32000")


def free_ports_for(service: Service, taken: set[int]) -> Ports:
    """Free ports in place of the defaults of a service."""

    def other(port: int | None) -> int | None:
        return None if port is None else free_port(taken)

    ports = service.ports
    return Ports(other(ports.grpc), other(ports.http), other(ports.metrics))


def check_free(service: Service, ports: Ports, taken: dict[int, str]) -> None:
    """Refuses ports that another service or program has.

    Raises:
        StartError: One line that names the port and the service.
    """
    for port in (ports.grpc, ports.http, ports.metrics):
        if port is None:
            continue
        if port in taken:
            raise StartError(f"{service.name} and {taken[port]} both want port {port}")
        if not is_free(port):
            raise StartError(
                f"port {port} of {service.name} is in use; stop what listens there, "
                "or add --free-ports"
            )
        taken[port] = service.name
