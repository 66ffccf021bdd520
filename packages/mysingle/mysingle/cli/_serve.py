"""`mysingle serve`: one server, by the name of its class."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mysingle.core.errors import ConfigError

if TYPE_CHECKING:
    from mysingle.grpc.server import BaseGrpcServer

__all__ = ["serve"]

_RELOAD_GRACE_SECONDS = 15


@click.command()
@click.argument("server", metavar="MODULE:CLASS")
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of GRPC_SERVER_PORT.")
@click.option("--workers", type=click.IntRange(1), help="Instead of GRPC_SERVER_WORKERS.")
@click.option("--reload", is_flag=True, help="Start anew whenever a .py file changes.")
def serve(server: str, port: int | None, workers: int | None, reload: bool) -> None:
    """Runs a subclass of BaseGrpcServer until Ctrl-C.

    Settings are read as ever: from the environment and from .env files of this directory.

    \b
    Examples:
      mysingle serve math_service.server:MathServer
      mysingle serve math_service.server:MathServer --port 50060 --workers 4
      mysingle serve math_service.server:MathServer --reload
    """  # noqa: D301  # click wants the control character
    sys.path.insert(0, str(Path.cwd()))
    # Through the environment, because worker processes read it too.
    if port is not None:
        os.environ["GRPC_SERVER_PORT"] = str(port)
    if workers is not None:
        os.environ["GRPC_SERVER_WORKERS"] = str(workers)
    if reload:
        _serve_and_reload(server)
    else:
        _load(server).main()


def _load(path: str) -> type[BaseGrpcServer]:
    """The class that `module:Class` names.

    Raises:
        ConfigError: There is no such module or class, or it is no server.
    """
    from mysingle.grpc.server import BaseGrpcServer

    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"{path!r} is not of the form module:Class")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot import {module_name}: {error}") from None
    except Exception as error:
        raise ConfigError(
            f"cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f"{module_name} has no {class_name!r}")
    if not (isinstance(found, type) and issubclass(found, BaseGrpcServer)):
        raise ConfigError(f"{path} is no subclass of BaseGrpcServer")
    return found


def _serve_and_reload(path: str) -> None:
    """Runs the server as a process of its own, which is replaced when code changes."""
    import shlex

    from watchfiles import PythonFilter, run_process

    places = {Path.cwd()}
    try:
        spec = find_spec(path.partition(":")[0])
    except (ImportError, ValueError):
        spec = None  # the process says what is wrong, and the next change may mend it
    if spec is not None and spec.origin is not None:
        places.add(Path(spec.origin).parent)
    click.echo(f"Watching {', '.join(str(place) for place in sorted(places))}")
    run_process(
        *places,
        target=shlex.join((sys.executable, "-m", "mysingle", "serve", path)),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=lambda changes: click.echo(
            f"Starting anew: {', '.join(sorted({Path(file).name for _, file in changes}))} changed"
        ),
        sigint_timeout=_RELOAD_GRACE_SECONDS,
    )
