"""Pins: complete, with hashes, and what `uv run` uses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([a-z0-9.-]+)==([^ ;]+)", re.MULTILINE)


def pins(root: Path) -> dict[str, str]:
    return dict(PIN.findall((root / "requirements.lock").read_text()))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the pins depend on, to be spoiled."""
    for pattern in ("pyproject.toml", "*/*/pyproject.toml", "uv.lock", "requirements.lock"):
        for path in ROOT.glob(pattern):
            place = tmp_path / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts/lock", "--check"], capture_output=True, text=True, check=False
    )


def test_every_pin_has_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=\S)", text)
    assert len(blocks) == len(pins(ROOT))
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_the_pins_are_installed() -> None:
    wanted = pins(ROOT)
    name_of = {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one for one in distributions()}
    different = {
        name: (one.version, wanted[name])
        for name, one in name_of.items()
        if name in wanted and one.version != wanted[name]
    }
    assert different == {}
    assert len(name_of.keys() & wanted.keys()) > len(wanted) / 2


def test_the_lock_is_complete(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_an_incomplete_lock_is_refused(copy: Path) -> None:
    lock = copy / "requirements.lock"
    text = lock.read_text()
    spoilt = re.sub(r"(?m)^watchfiles==.*\n(    .*\n)+", "", text)
    assert spoilt != text
    lock.write_text(spoilt)
    done = check(copy)
    assert done.returncode == 1
    assert done.stderr == (
        "lock: requirements.lock does not fit the pyproject.toml files; run: make lock\n"
    )
