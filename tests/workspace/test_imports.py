"""Who may import whom: the arrows between the rooms of the workspace."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"mysingle", "shared_protos"}


def services(root: Path) -> set[str]:
    return {path.parent.name for path in (root / "services").glob("*/pyproject.toml")}


def parse(path: Path) -> ast.AST:
    """The file's syntax tree.

    Without the garbage collector: in CPython before 3.11.4 a finalizer that runs meanwhile makes
    it fail ("recursion depth mismatch", https://github.com/python/cpython/issues/106905).
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside of functions and by `import_module("…")`."""
    for node in ast.walk(parse(path)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{name.name}" for name in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if ast.unparse(
                function
            ).endswith(("import_module", "__import__")):
                yield module


def violations(root: Path) -> list[str]:
    """What breaks the rules, one line each."""
    found = []
    names = services(root)
    for path in sorted([*root.glob("packages/**/*.py"), *root.glob("services/**/*.py")]):
        where = path.relative_to(root)
        if "templates" in where.parts or path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            continue
        room, member = where.parts[0], where.parts[1]
        is_test = "tests" in where.parts
        for module in imports(path):
            top, *rest = module.split(".")
            if top in names - {member}:
                found.append(f"{where} imports the service {top}")
            elif member == "mysingle" and top == "shared_protos" and not is_test:
                found.append(f"{where} imports the contracts, but must work with any")
            elif room == "services" and top == "mysingle" and any(p[:1] == "_" for p in rest):
                found.append(f"{where} imports {module}, which is private to mysingle")
    return sorted(set(found))


def test_the_rules_hold() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("services/a_service/a_service/x.py", "from b_service.core import add"),
        ("services/a_service/a_service/x.py", "def f():\n    import b_service.core"),
        ("services/a_service/a_service/x.py", "import_module('b_service')"),
        ("services/a_service/a_service/x.py", "from mysingle.grpc import _compose"),
        ("services/a_service/a_service/x.py", "from mysingle.grpc._compose import compose"),
        ("packages/mysingle/mysingle/x.py", "import a_service"),
        ("packages/mysingle/mysingle/x.py", "from shared_protos import math_pb2"),
        ("packages/shared-protos/shared_protos/x.py", "import a_service"),
    ],
)
def test_a_broken_rule_is_reported(tmp_path: Path, where: str, line: str) -> None:
    for name in ("a_service", "b_service"):
        (tmp_path / "services" / name).mkdir(parents=True)
        (tmp_path / "services" / name / "pyproject.toml").touch()
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    found = violations(tmp_path)
    assert found
    assert all(one.startswith(where) for one in found)
