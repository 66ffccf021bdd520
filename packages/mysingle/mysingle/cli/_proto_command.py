"""`mysingle proto`: stubs from contracts."""

from __future__ import annotations

import sys

import click

__all__ = ["proto"]


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if anything would change.")
def proto(check: bool) -> None:
    """Generates messages, stubs and their types.

    Reads every .proto file below packages/shared-protos and writes beside it. Files that would
    not change are left alone; stubs without a .proto file are removed.

    \b
    Examples:
      mysingle proto
      mysingle proto --check
    """  # noqa: D301  # click wants the control character
    from mysingle.cli._proto import generate
    from mysingle.cli._workspace import find_root

    root = find_root()
    contracts = root / "packages" / "shared-protos"
    changed = generate(contracts, contracts, check=check)
    for path in changed:
        click.echo(path.relative_to(root))
    if check and changed:
        click.echo("These differ from the contracts; run: mysingle proto", err=True)
        sys.exit(1)
    if not changed:
        click.echo("Everything is up to date")
