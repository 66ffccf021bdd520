"""`mysingle up`: the whole platform, until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mysingle.cli._platform import Platform
    from mysingle.cli._workspace import Service

__all__ = ["try_line", "up"]

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--free-ports", is_flag=True, help="Take free ports instead of the usual ones.")
@click.option(
    "--env", "environment", metavar="NAME", help="ENVIRONMENT of the services; picks .env.NAME."
)
def up(names: tuple[str, ...], free_ports: bool, environment: str | None) -> None:
    """Starts the services of this workspace and shows what they log.

    Starts a Redis unless REDIS_URL names one, then every service that has a
    [tool.mysingle.service] table in its pyproject.toml, each after those it depends on, and
    waits until each says SERVING. Ctrl-C drains and stops them all; a second one kills.

    NAMES picks services; those they depend on come along.

    \b
    Examples:
      mysingle up
      mysingle up math_service --free-ports
      mysingle up --env staging
    """  # noqa: D301  # click wants the control character
    import asyncio

    from mysingle.cli._workspace import discover, find_root, select

    root = find_root()
    services = select(discover(root), names)
    if not services:
        raise click.ClickException(
            f"{root}/services holds no service with a [tool.mysingle.service] table; "
            "make one: mysingle new service NAME"
        )
    sys.exit(asyncio.run(_run(root, services, free_ports, environment)))


async def _run(
    root: Path, services: list[Service], free_ports: bool, environment: str | None
) -> int:
    import asyncio
    import time

    from mysingle.cli._platform import Platform
    from mysingle.cli._signals import signals

    width = max(len(service.name) for service in services)
    prefixes = {
        service.name: click.style(
            f"{service.name:<{width}} │ ", fg=_COLOURS[number % len(_COLOURS)]
        )
        for number, service in enumerate(services)
    }
    held: list[str] = []  # what they print before the table
    shown = False
    everything_ended = asyncio.Event()
    began = time.monotonic()

    def output(name: str, line: str) -> None:
        if shown:
            click.echo(prefixes[name] + line)
        else:
            held.append(prefixes[name] + line)

    def on_ready(service: Service) -> None:
        click.echo(
            click.style("✓ ", fg="green")
            + f"{service.name} is SERVING after {time.monotonic() - began:.1f} s"
        )

    def on_exit(name: str, code: int) -> None:
        click.secho(f"✗ {name} ended by itself with code {code}; the others go on", fg="red")
        if not platform.running:
            everything_ended.set()

    platform = Platform(
        root,
        services,
        free_ports=free_ports,
        environment=environment,
        on_ready=on_ready,
        output=output,
        on_exit=on_exit,
    )
    click.echo(f"Starting {', '.join(service.name for service in services)}")
    with signals() as asked:
        starting = asyncio.create_task(platform.start())
        stop_asked = asyncio.create_task(asked.first.wait())
        await asyncio.wait({starting, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return 0
        await starting
        _print_table(platform)
        shown = True
        for line in held:
            click.echo(line)
        all_ended = asyncio.create_task(everything_ended.wait())
        await asyncio.wait({stop_asked, all_ended}, return_when=asyncio.FIRST_COMPLETED)
        if not stop_asked.done():
            await platform.stop()
            click.secho("no service is left", fg="red", err=True)
            return 1
        click.echo("Stopping; once more kills")
        stopping = asyncio.create_task(platform.stop())
        hurry = asyncio.create_task(asked.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            platform.kill()
        await stopping
        hurry.cancel()
    click.echo("Stopped")
    return 0


def _print_table(platform: Platform) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mysingle", title_justify="left")
    for column in ("service", "state", "address", "metrics"):
        table.add_column(column, no_wrap=True)
    for service in platform.services:
        ports = platform.ports[service.name]
        metrics = ports.metrics or ports.http
        table.add_row(
            service.name,
            "[green]SERVING[/]",
            "\n".join(
                form.format(port)
                for form, port in (
                    ("localhost:{}", ports.grpc),
                    ("http://localhost:{}", ports.http),
                )
                if port
            ),
            f"localhost:{metrics}/metrics" if metrics else "",
        )
    # Into a file or pipe, eighty columns would cut addresses in two.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
    # Below the table and not inside, so that they can be copied.
    click.echo("Try:")
    for service in platform.services:
        if service.try_line:
            click.echo(f"  {try_line(platform, service)}")
    click.echo(f"Redis: {platform.redis_url}   Logs: {platform.root / 'logs' / 'app.log'}")
    click.echo("Ctrl-C stops everything.")


def try_line(platform: Platform, service: Service) -> str:
    """The line to try: ports put in, and `mysingle` by its path, since it may not be on PATH."""
    line = service.fill(service.try_line, platform.ports[service.name]).strip()
    if line.startswith("mysingle "):
        line = str(_from_here(Path(sys.executable).parent / "mysingle")) + line[len("mysingle") :]
    return line


def _from_here(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
