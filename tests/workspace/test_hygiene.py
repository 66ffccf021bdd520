"""What no committed file may hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Spelled apart, so that this file is not found by its own search.
HOSTS = ("pypi" + r"\.org", "python" + "hosted", "registry\\." + "npmjs", "crates" + r"\.io")
PATHS = ("/ro" + "ot/", "/ho" + "me/")
MAX_BYTES = 1_000_000


def committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_registry_host_and_no_path_of_a_machine() -> None:
    wanted = re.compile("|".join((*HOSTS, *PATHS)).encode())
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in committed()
        if path.is_file() and (match := wanted.search(path.read_bytes()))
    ]
    assert found == []


def test_no_large_file() -> None:
    assert [
        path for path in committed() if path.is_file() and path.stat().st_size > MAX_BYTES
    ] == []
