"""The wheels, installed into empty environments and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
OTHERS = ("3.12", "3.13", "3.14")


def uv(*arguments: str | Path) -> None:
    environment = dict(os.environ)
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():  # as scripts/setup has it
        environment.setdefault("UV_SYSTEM_CERTS", "true")
    done = subprocess.run(
        [UV, *arguments, "--quiet"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def pythons(version: str) -> Iterator[str]:
    """Commands that might be that Python: some tools put one on PATH that does not run."""
    if path := shutil.which(f"python{version}"):
        yield path
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, folder.glob(f"{version}.*/bin/python"))


def find_python(version: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for path in pythons(version):
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return path
    pytest.skip(f"no Python {version} on this machine")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of all packages, by distribution."""
    out = tmp_path_factory.mktemp("wheels")
    for package in sorted((ROOT / "packages").iterdir()):
        if (package / "pyproject.toml").is_file():
            uv(
                *("build", "--wheel", "--no-build-isolation", "--python", sys.executable),
                *("--out-dir", out, package),
            )
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def use(python: str, place: Path, extra: str, wheels: dict[str, Path]) -> None:
    """Installs the packages, mysingle with an extra, and uses them as a server and a client."""
    uv("venv", "--python", python, place)
    uv(
        *("pip", "install", "--python", place, "--constraints", "requirements.lock"),
        f"mysingle[{extra}] @ {wheels['mysingle'].as_uri()}",
        f"shared-protos @ {wheels['shared_protos'].as_uri()}",
    )
    done = subprocess.run(
        [place / "bin/python", "-I", Path(__file__).with_name("installed.py")],
        cwd=place,
        env={"PATH": os.defpath, "HOME": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert said[:3] == ["SERVING", "8", "typed: True"]
    assert said[3].startswith(str(place))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("extra", ["grpc", "common-grpc"])
def test_installed_and_used(extra: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    use(sys.executable, tmp_path / "env", extra, wheels)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", OTHERS)
def test_other_pythons(version: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    use(find_python(version), tmp_path / "env", "grpc", wheels)


def test_wheels_hold_the_package_and_nothing_else(wheels: dict[str, Path]) -> None:
    for name, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{name}/py.typed" in names
        assert {path.split("/")[0].split("-")[0] for path in names} == {name}
        assert not [path for path in names if "/tests/" in path and not path.endswith(".tmpl")]
