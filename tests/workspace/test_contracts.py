"""Contracts: linted, compatible with what clients use, and their stubs fresh."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mysingle.cli._proto import generate

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "packages/shared-protos"
BASELINE = "packages/shared-protos/baseline.yaml"
BIN = Path(sys.executable).parent


def buf(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "buf", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contracts and their rules, to be spoiled."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(PROTOS, tmp_path / "packages/shared-protos")
    return tmp_path


def spoil(root: Path, old: str, new: str) -> None:
    path = root / "packages/shared-protos/shared_protos/math.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_lint() -> None:
    done = buf(ROOT, "lint")
    assert done.returncode == 0, done.stdout


def test_lint_reports(copy: Path) -> None:
    spoil(copy, "int32 a = 1;", "int32 BadName = 1;")
    assert "BadName" in buf(copy, "lint").stdout


def test_nothing_breaks_clients() -> None:
    done = buf(ROOT, "breaking", "--against", BASELINE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("int32 b = 2;", "int32 b = 3;", id="field renumbered"),
        pytest.param("int32 a = 1;", "string a = 1;", id="type changed"),
        pytest.param("rpc Add(", "rpc Sum(", id="method renamed"),
        pytest.param("package math;", "package maths;", id="package renamed"),
    ],
)
def test_a_break_is_reported(copy: Path, old: str, new: str) -> None:
    spoil(copy, old, new)
    done = buf(copy, "breaking", "--against", BASELINE)
    assert done.returncode != 0
    assert "math.proto" in done.stdout


def test_an_addition_breaks_nobody(copy: Path) -> None:
    spoil(copy, "int32 b = 2;", "int32 b = 2;\n  int32 c = 3;")
    assert buf(copy, "breaking", "--against", BASELINE).returncode == 0


def test_every_contract_is_protected(tmp_path: Path) -> None:
    """What is not in the baseline could be broken unseen; `make proto` puts it there."""
    made = tmp_path / "baseline.yaml"
    assert buf(ROOT, "build", "--exclude-source-info", "--output", str(made)).returncode == 0
    assert made.read_text() == (ROOT / BASELINE).read_text(), "run: make proto"


def test_make_proto_refuses_a_break(copy: Path) -> None:
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    (copy / ".venv").symlink_to(BIN.parent)
    (copy / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*"]\n')
    spoil(copy, "int32 b = 2;", "int32 b = 3;")
    before = (copy / BASELINE).read_text()

    def proto(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [copy / "scripts/proto", *arguments], capture_output=True, text=True, check=False
        )

    refused = proto()
    assert refused.returncode != 0
    assert "--break" in refused.stderr
    assert (copy / BASELINE).read_text() == before
    accepted = proto("--break")
    assert accepted.returncode == 0, accepted.stderr
    assert (copy / BASELINE).read_text() != before
    protos = copy / "packages/shared-protos"
    assert generate(protos, protos, check=True) == []


def test_stubs_are_fresh() -> None:
    assert generate(PROTOS, PROTOS, check=True) == []


def test_stale_stubs_are_reported(copy: Path) -> None:
    spoil(copy, "int32 b = 2;", "int32 b = 2;\n  int32 c = 3;")
    protos = copy / "packages/shared-protos"
    assert protos / "shared_protos/math_pb2.py" in generate(protos, protos, check=True)


def test_stubs_import_from_anywhere(tmp_path: Path) -> None:
    code = "from shared_protos import math_pb2, math_pb2_grpc; print(math_pb2.AddRequest(a=1))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a: 1\n\n"


def test_the_hand_written_command_runs() -> None:
    command = (
        "run --directory services/shared_protos python -m grpc_tools.protoc -I shared_protos "
        "--python_out=shared_protos --grpc_python_out=shared_protos shared_protos/math.proto"
    )
    folder = ROOT / "services/shared_protos/shared_protos"
    for made in folder.glob("*.py"):
        made.unlink()
    subprocess.run([BIN / "uv", *command.split()], cwd=ROOT, check=True, timeout=120)
    assert {path.name for path in folder.glob("*.py")} == {"math_pb2.py", "math_pb2_grpc.py"}
    assert generate(PROTOS, PROTOS, check=True) == []
