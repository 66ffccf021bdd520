"""How the commands that talk to a server reach it, and how they show that it refused."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool

__all__ = ["Connection", "connection_options", "run_remote"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_EXIT_CODE_OFFSET = 64
_KEY = re.compile(r"[a-z0-9_.-]+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options of a command say about the server.

    Attributes:
        target: A gRPC target, such as `localhost:50051` or `unix:/run/math.sock`.
        metadata: Sent with each call.
        timeout: Seconds a call may take; None for as long as it likes.
        ca: Certificates to trust instead of the system's; with TLS only.
        cert: Certificate of the client, for mTLS.
        key: Its key.
        tls: Whether to talk TLS.
    """

    target: str
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float | None = None
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def channel(self) -> grpc.Channel:
        """A new channel; it connects at the first call."""
        import grpc

        options = [("grpc.max_receive_message_length", -1)]
        if self.target.startswith(("localhost", "127.", "[::1]")):
            options.append(("grpc.enable_http_proxy", 0))
        if not self.tls:
            return grpc.insecure_channel(self.target, options=options)
        credentials = grpc.ssl_channel_credentials(
            *(path.read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        )
        return grpc.secure_channel(self.target, credentials, options=options)


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the argument TARGET and the options; it gets one `connection`."""

    @click.argument("target")
    @click.option(
        "-H",
        "--header",
        "headers",
        multiple=True,
        metavar="'KEY: VALUE'",
        help="Metadata to send; may be repeated. Values of KEY-bin are base64.",
    )
    @click.option("--user-id", help="Shorthand for -H 'user-id: …'.")
    @click.option("--token", help="Shorthand for -H 'authorization: Bearer …'.")
    @click.option("--timeout", type=float, metavar="SECONDS", help="Deadline of each call.")
    @click.option("--plaintext", is_flag=True, help="No TLS; that is the default.")
    @click.option("--tls", is_flag=True, help="TLS, trusting what this system trusts.")
    @click.option("--ca", type=_FILE, help="TLS, trusting these certificates.")
    @click.option("--cert", type=_FILE, help="Certificate to show to the server (mTLS).")
    @click.option("--key", type=_FILE, help="Key of --cert.")
    @wraps(command)
    def with_connection(
        target: str,
        headers: tuple[str, ...],
        user_id: str | None,
        token: str | None,
        timeout: float | None,
        plaintext: bool,
        tls: bool,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        **rest: Any,
    ) -> Any:
        if (cert is None) != (key is None):
            raise click.UsageError("--cert and --key go together")
        if timeout is not None and timeout <= 0:
            raise click.UsageError("--timeout must be more than 0 seconds")
        tls = tls or ca is not None or cert is not None
        if plaintext and tls:
            raise click.UsageError("--plaintext and TLS exclude each other")
        metadata = [_header(header) for header in headers]
        if user_id is not None:
            metadata.append(("user-id", user_id))
        if token is not None:
            metadata.append(("authorization", f"Bearer {token}"))
        connection = Connection(target, tuple(metadata), timeout, tls, ca, cert, key)
        return command(connection=connection, **rest)

    return with_connection


def _header(text: str) -> tuple[str, str | bytes]:
    name, colon, value = text.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not colon or not name:
        raise click.UsageError(f"-H {text!r} is not of the form 'key: value'")
    if not _KEY.fullmatch(name):
        raise click.UsageError(f"-H {name!r}: keys are made of a-z, 0-9, '_', '-' and '.'")
    if not name.endswith("-bin"):
        if not (value.isascii() and value.isprintable()):
            raise click.UsageError(f"-H {name}: the value is not ASCII; use {name}-bin and base64")
        return name, value
    try:
        return name, b64decode(value, validate=True)
    except Base64Error:
        raise click.UsageError(f"-H {name}: the value is not base64") from None


def run_remote(work: Callable[[], T], pools: Sequence[DescriptorPool] = ()) -> T:
    """Runs something that makes calls; one that fails in it is shown, and ends the program.

    The exit code is 64 and the number of the status, as in grpcurl. The calls are made without
    asyncio: a command has nothing else to do meanwhile, and grpc.aio reports INTERNAL where a
    server refuses a stream before all requests were written.

    Args:
        work: What to run.
        pools: Where to look for the types of error details, once the work has begun.
    """
    import grpc

    try:
        return work()
    except grpc.RpcError as error:
        _show(error, pools)


def _show(error: Any, pools: Sequence[DescriptorPool]) -> NoReturn:
    from google.protobuf.json_format import MessageToJson

    code = error.code()
    click.secho("ERROR:", fg="red", err=True)
    click.echo(f"  Code: {code.name}", err=True)
    click.echo(f"  Message: {error.details() or ''}", err=True)
    for number, detail in enumerate(_details(error), 1):
        if number == 1:
            click.echo("  Details:", err=True)
        text = f"{detail.type_url} ({len(detail.value)} bytes)"
        for pool in (None, *pools):  # what we know, then what the server told us
            with suppress(TypeError, ValueError):
                text = MessageToJson(detail, indent=None, descriptor_pool=pool)
                break
        click.echo(f"  {number}) {text}", err=True)
    sys.exit(_EXIT_CODE_OFFSET + int(code.value[0]))


def _details(error: Any) -> list[Any]:
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    del error_details_pb2  # imported so that its types are known
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
