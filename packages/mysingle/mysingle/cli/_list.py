"""`mysingle list` and `mysingle describe`: what a server has to offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mysingle.cli._connection import Connection, connection_options, run_remote

if TYPE_CHECKING:
    from mysingle.cli._reflect import Reflection

__all__ = ["describe", "list_"]


@click.command(name="list")
@connection_options
@click.argument("service", required=False)
def list_(connection: Connection, service: str | None) -> None:
    """Lists the services of a server, or the methods of a service.

    The server must have reflection on.

    \b
    Examples:
      mysingle list localhost:50051
      mysingle list localhost:50051 math.MathService
    """  # noqa: D301  # click wants the control character
    run_remote(lambda: _list(connection, service))


def _list(connection: Connection, service: str | None) -> None:
    from mysingle.cli._reflect import Reflection

    with connection.channel() as channel:
        reflection = Reflection(channel, connection)
        if service is None:
            for name in reflection.services():
                click.echo(name)
            return
        reflection.learn(service)
        try:
            found = reflection.pool.FindServiceByName(service)
        except KeyError:
            raise click.ClickException(f"{service} is no service") from None
        for method in found.methods:
            click.echo(f"{service}/{method.name}")


@click.command()
@connection_options
@click.argument("symbol", required=False)
def describe(connection: Connection, symbol: str | None) -> None:
    """Shows a service, method, message or enum as proto source.

    Without SYMBOL, shows every service. The server must have reflection on.

    \b
    Examples:
      mysingle describe localhost:50051 math.MathService
      mysingle describe localhost:50051 math.AddRequest
    """  # noqa: D301  # click wants the control character
    run_remote(lambda: _describe(connection, symbol))


def _describe(connection: Connection, symbol: str | None) -> None:
    from mysingle.cli._reflect import Reflection

    with connection.channel() as channel:
        reflection = Reflection(channel, connection)
        names = [symbol] if symbol is not None else reflection.services()
        for name in names:
            click.echo(_text_of(reflection, name.strip("/").replace("/", ".")))


def _text_of(reflection: Reflection, name: str) -> str:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        MethodDescriptorProto,
        ServiceDescriptorProto,
    )

    from mysingle.cli import _proto_text as text

    reflection.learn(name)
    pool = reflection.pool
    try:
        service = ServiceDescriptorProto()
        pool.FindServiceByName(name).CopyToProto(service)
        return f"{name} is a service:\n{text.service_text(service)}"
    except KeyError:
        pass
    try:
        message = DescriptorProto()
        pool.FindMessageTypeByName(name).CopyToProto(message)
        return f"{name} is a message:\n{text.message_text(message)}"
    except KeyError:
        pass
    try:
        enum = EnumDescriptorProto()
        pool.FindEnumTypeByName(name).CopyToProto(enum)
        return f"{name} is an enum:\n{text.enum_text(enum)}"
    except KeyError:
        pass
    try:
        method = MethodDescriptorProto()
        pool.FindMethodByName(name).CopyToProto(method)
        return f"{name} is a method:\n{text.method_text(method)}"
    except KeyError:
        raise click.ClickException(f"{name} is no service, method, message or enum") from None
