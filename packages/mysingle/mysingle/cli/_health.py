"""`mysingle health`: does a server say that it serves?"""

from __future__ import annotations

import sys

import click

from mysingle.cli._connection import Connection, connection_options, run_remote

__all__ = ["health"]


@click.command()
@connection_options
@click.option("--service", default="", help="One service; by default the server as a whole.")
@click.option("--watch", is_flag=True, help="Go on, and print each change.")
def health(connection: Connection, service: str, watch: bool) -> None:
    """Asks a server whether it serves.

    Prints SERVING and exits with 0, or prints another state and exits with 1.

    \b
    Examples:
      mysingle health localhost:50051
      mysingle health localhost:50051 --service math.MathService
      mysingle health localhost:50051 --watch
    """  # noqa: D301  # click wants the control character
    sys.exit(run_remote(lambda: _health(connection, service, watch)))


def _health(connection: Connection, service: str, watch: bool) -> int:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    states = health_pb2.HealthCheckResponse.ServingStatus
    request = health_pb2.HealthCheckRequest(service=service)
    with connection.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        if watch:
            watching = stub.Watch(request, metadata=connection.metadata, timeout=connection.timeout)
            for answer in watching:
                click.echo(states.Name(answer.status))
            return 0
        answer = stub.Check(request, metadata=connection.metadata, timeout=connection.timeout)
    click.echo(states.Name(answer.status))
    return 0 if answer.status == states.SERVING else 1
