"""Messages, stubs and their types out of `.proto` files.

Everything is made with one include directory, so that `shared_protos/math.proto` becomes the
module `shared_protos.math_pb2` and what it imports is imported by its full name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from mysingle.core.errors import ConfigError

__all__ = ["generate"]

_GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(root: Path, out: Path, *, check: bool = False) -> list[Path]:
    """Generates code for every `.proto` file below `root`.

    Stubs whose `.proto` file is gone are removed, and packages get an `__init__.py`.

    Args:
        root: The include directory: imports and module names are relative to it.
        out: Where the code goes, commonly `root` itself.
        check: Write nothing, only say what would change.

    Returns:
        The files below `out` that were, or would be, written or removed, sorted.

    Raises:
        ConfigError: A tool is missing, there is nothing to generate from, or a `.proto` file is
            wrong; the text is what protoc says.
    """
    protos = sorted(root.rglob("*.proto"))
    if not protos:
        raise ConfigError(f"no .proto file below {root}")
    with tempfile.TemporaryDirectory(prefix="mysingle-proto-") as temporary:
        fresh = Path(temporary)
        _run_protoc(root, fresh, protos)
        made = {path.relative_to(fresh): path.read_bytes() for path in fresh.rglob("*.py*")}
    for package in _packages(made):
        if not (out / package / "__init__.py").exists():
            name = ".".join(package.parts)
            made[package / "__init__.py"] = f'"""Contracts: `{name}`."""\n'.encode()
    stale = {
        path.relative_to(out)
        for pattern in _GENERATED
        for path in out.rglob(pattern)
        if path.relative_to(out) not in made
    }
    changed = {path for path, text in made.items() if _read(out / path) != text}
    if not check:
        for path in sorted(changed):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(made[path])
        for path in stale:
            (out / path).unlink()
    return sorted(out / path for path in changed | stale)


def _packages(made: dict[Path, bytes]) -> set[Path]:
    return {parent for path in made for parent in path.parents if parent != Path()}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _run_protoc(root: Path, out: Path, protos: list[Path]) -> None:
    tools = find_spec("grpc_tools")
    if tools is None or tools.origin is None:
        raise ConfigError("grpcio-tools is not installed: pip install grpcio-tools mypy-protobuf")
    binaries = Path(sys.executable).parent
    path = os.pathsep.join((str(binaries), os.environ.get("PATH", os.defpath)))
    includes = [root, Path(tools.origin).parent / "_proto", *_common_protos()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"-I{include}" for include in includes),
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *(str(proto.relative_to(root)) for proto in protos),
        ],
        cwd=root,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        if "protoc-gen-mypy" in said:
            said = f"mypy-protobuf is not installed: pip install mypy-protobuf ({said})"
        raise ConfigError(f"protoc: {said}")


def _common_protos() -> list[Path]:
    """Where `google/rpc/status.proto` and its kin lie, if installed."""
    spec = find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        return []
    return [Path(place).parents[1] for place in spec.submodule_search_locations]
