"""What no committed file may hold."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Spelled apart, so that this file is not found by its own search.
HOSTS = (
    *("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs"),
    *(r"(static|index)\." + r"crates\.io", "proxy" + r"\.golang\.org"),
    *("repo1?" + r"\.maven", "deb" + r"\.debian\.org"),
)
PATHS = ("/ro" + "ot/", "/wo" + "rk/", "/fa" + "rm/")
MAX_BYTES = 1_000_000


def committed() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a clone tells what is committed")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def naming(paths: Iterable[Path]) -> list[str]:
    """Lines that name a registry's host or a path of somebody's machine."""
    wanted = re.compile("|".join((*HOSTS, *PATHS)).encode())
    return [
        f"{path}:{number}"
        for path in paths
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
        if wanted.search(line)
    ]


def sleeping(paths: Iterable[Path]) -> list[str]:
    """Calls of any `sleep`: a test awaits what it waits for."""
    return [
        f"{path}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and re.search(r"\bsleep$", ast.unparse(node.func))
    ]


def test_no_registry_host_and_no_path_of_a_machine() -> None:
    assert naming(committed()) == []


@pytest.mark.parametrize(
    "line",
    [
        "https://" + "pypi" + ".org/simple",
        "url = https://files." + "python" + "hosted.org/x",
        "https://index." + "crates.io",
        "cd /ro" + "ot/src",
        "/wo" + "rk/main",
    ],
)
def test_a_host_or_path_is_reported(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(f"one\n{line}\n")
    assert naming([path]) == [f"{path}:2"]


def test_no_test_sleeps() -> None:
    tests = [path for path in committed() if path.suffix == ".py" and "tests" in path.parent.parts]
    assert len(tests) > 1
    assert sleeping(tests) == []


@pytest.mark.parametrize("call", ["time.sleep(1)", "await asyncio.sleep(0)", "sleep(0.1)"])
def test_a_sleep_is_reported(tmp_path: Path, call: str) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(f"async def test_x():\n    {call}\n")
    assert sleeping([path]) == [f"{path}:2"]


def test_no_large_file() -> None:
    assert [path for path in committed() if path.stat().st_size > MAX_BYTES] == []
