"""A new service out of the files in `templates/service`."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from mysingle.cli._proto import generate
from mysingle.cli._workspace import discover
from mysingle.core.errors import ConfigError

__all__ = ["Made", "create", "install"]

_TEMPLATES = Path(__file__).with_name("templates") / "service"
_SUFFIX = ".tmpl"
_VALID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# These would hide a package or contract of the same name.
_TAKEN = frozenset({"common", "google", "grpc", "mysingle", "shared_protos", "test", "tests"})
_FIRST_PORT = 50051
_METRICS_OFFSET = 9151 - 50051


@dataclass(frozen=True, slots=True)
class Made:
    """What was made.

    Attributes:
        directory: The service.
        proto: Its contract.
        files: All files, the generated ones included.
    """

    directory: Path
    proto: Path
    files: list[Path]


def create(root: Path, name: str) -> Made:
    """Writes a service and its contract, and generates its stubs.

    Args:
        root: The directory of the workspace.
        name: A word such as `greeter`; `greeter_service` is the same.

    Raises:
        ConfigError: The name cannot be used, or a service of that name is there.
    """
    name = name.removesuffix("_service")
    _check_name(name)
    contracts = root / "packages" / "shared-protos"
    if not contracts.is_dir():
        raise ConfigError(f"{contracts} is missing; contracts belong there")
    directory = root / "services" / f"{name}_service"
    package = contracts / "shared_protos" / name
    for place in (directory, package):
        if place.exists():
            raise ConfigError(f"{place} is there already")
    port = _free_default_port(root)
    words = name.split("_")
    values = {
        "name": name,
        "title": "".join(word.capitalize() for word in words),
        "kebab": name.replace("_", "-"),
        "upper": name.upper(),
        "port": str(port),
        "metrics_port": str(port + _METRICS_OFFSET),
    }
    files = [
        _render(template, directory / _target(template, values), values)
        for template in sorted(_TEMPLATES.rglob(f"*{_SUFFIX}"))
        if template.name != "contract.proto.tmpl"
    ]
    proto = package / "v1" / f"{name}.proto"
    files.append(_render(_TEMPLATES / "contract.proto.tmpl", proto, values))
    files.extend(path for path in generate(contracts, contracts) if package in path.parents)
    _tidy(root, directory)
    _tell_mypy(root / "pyproject.toml", f"services/{directory.name}")
    return Made(directory, proto, files)


def install(directory: Path) -> None:
    """Installs the service into the environment that runs this, so that it can be imported.

    Raises:
        ConfigError: uv is missing or failed.
    """
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ConfigError(
            f"uv is not installed; install the service with: pip install -e {directory}"
        )
    done = subprocess.run(
        [
            *(uv, "pip", "install", "--quiet", "--python", sys.executable),
            *("--no-deps", "--editable", str(directory)),
        ],
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"uv could not install {directory}: {done.stderr.strip()}")


def _check_name(name: str) -> None:
    if not _VALID.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a service: write it in lower case, such as greeter or order_book"
        )
    if keyword.iskeyword(name) or name in _TAKEN:
        raise ConfigError(f"{name!r} cannot name a service: Python or this workspace uses it")


def _free_default_port(root: Path) -> int:
    used = {service.ports.grpc for service in discover(root).values()}
    port = _FIRST_PORT
    while port in used:
        port += 1
    return port


def _target(template: Path, values: Mapping[str, str]) -> Path:
    text = str(template.relative_to(_TEMPLATES)).removesuffix(_SUFFIX)
    return Path(text.replace("NAME", values["name"]).replace("dot-", "."))


def _render(template: Path, target: Path, values: Mapping[str, str]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(template.read_text("utf-8")).substitute(values), "utf-8")
    return target


def _tidy(root: Path, directory: Path) -> None:
    """Puts imports and long lines in the order that depends on the name, where ruff is there."""
    ruff = Path(sys.executable).parent / "ruff"
    if ruff.exists():
        for command in (("check", "--fix", "--select", "I"), ("format",)):
            subprocess.run([str(ruff), *command, "--quiet", str(directory)], cwd=root, check=False)


def _tell_mypy(file: Path, place: str) -> None:
    """Adds the service to `mypy_path`, where the workspace has one in one line."""
    text = file.read_text("utf-8")
    found = re.search(r"^mypy_path = \[(.*)\]$", text, re.MULTILINE)
    if found and f'"{place}"' not in found[1]:
        entry = f', "{place}"' if found[1].strip() else f'"{place}"'
        file.write_text(text[: found.end(1)] + entry + text[found.end(1) :], "utf-8")
