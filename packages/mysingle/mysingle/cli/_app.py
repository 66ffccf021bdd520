"""The group that all commands belong to, and how it finds them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from mysingle.core.errors import MysingleError

__all__ = ["LazyGroup", "cli", "main"]

_COMMANDS = {
    "up": "mysingle.cli._up:up",
    "demo": "mysingle.cli._demo:demo",
    "serve": "mysingle.cli._serve:serve",
    "new": "mysingle.cli._new:new",
    "proto": "mysingle.cli._proto_command:proto",
    "health": "mysingle.cli._health:health",
    "list": "mysingle.cli._list:list_",
    "describe": "mysingle.cli._list:describe",
    "call": "mysingle.cli._call:call",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when somebody asks for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one meets them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command; None where there is none of that name."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what the operator did wrong is one line, not a traceback."""
        try:
            return super().invoke(ctx)
        except MysingleError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mysingle", prog_name="mysingle")
def cli() -> None:
    """Builds, runs and inspects gRPC services.

    \b
    Start the whole platform:        mysingle up
    See it answer real calls:        mysingle demo
    Add a service of your own:       mysingle new service greeter
    Call any server:                 mysingle call localhost:50051 math.MathService/Add '{"a": 3}'
    """  # noqa: D301  # click wants the control character


def main() -> None:
    """Runs the command line."""
    cli(prog_name="mysingle")
