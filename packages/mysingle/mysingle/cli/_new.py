"""`mysingle new`: a service to begin with."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["new"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def new() -> None:
    """Makes something to begin with."""


@new.command()
@click.argument("name")
@click.option("--no-install", is_flag=True, help="Do not install it into this environment.")
def service(name: str, no_install: bool) -> None:
    """Makes a service of this workspace that runs, has a passing test, and is started by `up`.

    NAME is a word in lower case such as greeter; the service is services/NAME_service, its
    contract packages/shared-protos/shared_protos/NAME/v1/NAME.proto.

    \b
    Examples:
      mysingle new service greeter
    """  # noqa: D301  # click wants the control character
    from mysingle.cli._scaffold import create, install
    from mysingle.cli._workspace import find_root

    root = find_root()
    made = create(root, name)
    for path in made.files:
        click.echo(f"  {path.relative_to(root)}")
    if not no_install:
        click.echo(f"Installing {made.directory.name}")
        install(made.directory)
    here = made.directory.relative_to(root)
    click.echo("Next:")
    click.echo(f"  edit    {_shown(made.proto, root)}, then: mysingle proto")
    click.echo(f"  edit    {here}/{made.directory.name}/servicer.py")
    click.echo(f"  test    pytest {here}")
    click.echo("  run     mysingle up")


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root)
