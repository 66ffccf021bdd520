"""`mysingle demo`: the platform shows what it does, and checks itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mysingle.cli._workspace import Service

__all__ = ["demo"]


@click.command()
@click.argument("names", nargs=-1)
def demo(names: tuple[str, ...]) -> None:
    """Starts the platform on free ports, makes real calls, stops it.

    Prints each call and each answer with a ✓ or a ✗, and exits with 1 if anything was wrong.

    NAMES picks services; those they depend on come along.

    \b
    Examples:
      mysingle demo
      mysingle demo math_service
    """  # noqa: D301  # click wants the control character
    import asyncio

    from mysingle.cli._workspace import discover, find_root, select

    root = find_root()
    services = select(discover(root), names)
    if not any(service.demo for service in services):
        raise click.ClickException("no service has a demo in its [tool.mysingle.service] table")
    sys.exit(asyncio.run(_run(root, services)))


async def _run(root: Path, services: list[Service]) -> int:
    import asyncio
    import tempfile

    from mysingle.cli._signals import signals

    # Its own Redis, so that a demo beside a running platform touches none of its data.
    with signals() as asked, tempfile.TemporaryDirectory(prefix="mysingle-demo-") as state:
        walking = asyncio.create_task(_walk(root, services, Path(state)))
        stop_asked = asyncio.create_task(asked.first.wait())
        await asyncio.wait({walking, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        if walking.done():
            stop_asked.cancel()
            return walking.result()
        walking.cancel()
        await asyncio.wait({walking})
        return 130


async def _walk(root: Path, services: list[Service], state: Path) -> int:
    import time

    from mysingle.cli._platform import Platform

    began = time.monotonic()
    died: list[str] = []

    def on_exit(name: str, code: int) -> None:
        died.append(name)
        click.echo(f"{_mark(False)} {name} ended by itself with code {code}")

    platform = Platform(
        root,
        services,
        free_ports=True,
        state=state,
        on_ready=lambda service: click.echo(f"{_mark(True)} {service.name} is SERVING"),
        on_exit=on_exit,
    )
    wrong = []
    await platform.start()
    try:
        for service in services:
            if not service.demo:
                continue
            click.secho(f"\n{service.name}", bold=True)
            if await platform.run(service, service.demo, click.echo):
                wrong.append(service.name)
    finally:
        click.echo()
        await platform.stop()
        left = platform.running
        click.echo(f"{_mark(not left)} stopped everything")
    bad = [*wrong, *died, *left]
    seconds = time.monotonic() - began
    if bad:
        click.secho(f"Something is wrong with {', '.join(dict.fromkeys(bad))}", fg="red")
        return 1
    click.secho(f"Every answer was right, in {seconds:.1f} s", fg="green")
    return 0


def _mark(right: bool) -> str:
    return click.style("✓", fg="green") if right else click.style("✗", fg="red")
