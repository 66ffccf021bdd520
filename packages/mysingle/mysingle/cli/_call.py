"""`mysingle call`: any method of any server, JSON in and out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mysingle.cli._connection import Connection, connection_options, run_remote

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

__all__ = ["call"]


@click.command()
@connection_options
@click.argument("method")
@click.argument("data", default="")
@click.option("--emit-defaults", is_flag=True, help="Show fields that have their default value.")
def call(connection: Connection, method: str, data: str, emit_defaults: bool) -> None:
    """Calls a method and prints its answer as JSON.

    METHOD is package.Service/Method. DATA is JSON, @FILE with JSON, or - for standard input; a
    method that takes a stream gets one message for each JSON value, one after the other. A
    method that answers with a stream prints one line of JSON for each message. The server must
    have reflection on.

    A call that fails prints code, message and details on standard error and exits with 64 and
    the number of the code.

    \b
    Examples:
      mysingle call localhost:50051 math.MathService/Add '{"a": 3, "b": 5}'
      mysingle call localhost:50051 math.MathService/Add @numbers.json --user-id alice
      echo '{"a": 1}' | mysingle call localhost:50051 math.MathService/Add -
      mysingle call api.example.com:443 math.MathService/Add '{}' --tls -H 'x-team: blue'
    """  # noqa: D301  # click wants the control character
    values = list(_values(_text(data)))
    pools: list[DescriptorPool] = []
    run_remote(lambda: _call(connection, method, values, emit_defaults, pools), pools)


def _text(data: str) -> str:
    if data == "-":
        return sys.stdin.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"cannot read {data[1:]}: {error}") from None
    return data


def _values(text: str) -> Iterator[Any]:
    """JSON values that stand one after the other."""
    decoder = json.JSONDecoder()
    rest = text.lstrip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except json.JSONDecodeError as error:
            raise click.ClickException(f"DATA is not JSON: {error}") from None
        yield value
        rest = rest[end:].lstrip()


def _call(
    connection: Connection,
    name: str,
    values: list[Any],
    emit_defaults: bool,
    pools: list[DescriptorPool],
) -> None:
    from google.protobuf.json_format import MessageToJson

    from mysingle.cli._reflect import Reflection

    with connection.channel() as channel:
        reflection = Reflection(channel, connection)
        pools.append(reflection.pool)
        method = reflection.method(name)
        streams = method.server_streaming
        for answer in _answers(channel, connection, method, reflection.pool, values):
            click.echo(
                MessageToJson(
                    answer,
                    indent=None if streams else 2,
                    ensure_ascii=False,
                    always_print_fields_with_no_presence=emit_defaults,
                    descriptor_pool=reflection.pool,
                )
            )


def _answers(
    channel: grpc.Channel,
    connection: Connection,
    method: MethodDescriptor,
    pool: DescriptorPool,
    values: list[Any],
) -> Any:
    from google.protobuf.message_factory import GetMessageClass

    requests = _requests(method, pool, values)
    kind = (
        ("stream" if method.client_streaming else "unary")
        + "_"
        + ("stream" if method.server_streaming else "unary")
    )
    multicallable = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    running = multicallable(
        iter(requests) if method.client_streaming else requests[0],
        metadata=connection.metadata,
        timeout=connection.timeout,
    )
    if method.server_streaming:
        yield from running
    else:
        yield running


def _requests(method: MethodDescriptor, pool: DescriptorPool, values: list[Any]) -> list[Message]:
    from google.protobuf.json_format import ParseDict, ParseError
    from google.protobuf.message_factory import GetMessageClass

    if not method.client_streaming:
        values = values or [{}]
        if len(values) > 1:
            raise click.ClickException(
                f"{method.name} takes one message, and DATA has {len(values)}"
            )
    kind = GetMessageClass(method.input_type)
    try:
        return [ParseDict(value, kind(), descriptor_pool=pool) for value in values]
    except ParseError as error:
        said = " ".join(str(error).split())
        raise click.ClickException(f"DATA is no {method.input_type.full_name}: {said}") from None
