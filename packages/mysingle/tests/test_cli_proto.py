"""`generate`: complete, importable, repeatable, and it tidies up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_help import make_workspace, mysingle

from mysingle.cli._proto import generate
from mysingle.core.errors import ConfigError

ONE = 'syntax = "proto3"; package one.v1; message One { int32 a = 1; }'
TWO = (
    'syntax = "proto3"; package two; import "made/one/v1/one.proto"; '
    'import "google/rpc/status.proto"; import "google/protobuf/empty.proto"; '
    "message Two { one.v1.One one = 1; google.rpc.Status status = 2; } "
    "service Twos { rpc Get(google.protobuf.Empty) returns (Two); }"
)


@pytest.fixture
def root(tmp_path):
    for name, text in (("made/one/v1/one.proto", ONE), ("made/two.proto", TWO)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_makes_messages_stubs_types_and_packages(root):
    made = {str(path.relative_to(root)) for path in generate(root, root)}
    ends = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    assert made >= {f"made/one/v1/one{ends[0]}", f"made/one/v1/one{ends[1]}"}
    assert made >= {f"made/two{end}" for end in ends}
    assert made >= {f"made/{place}__init__.py" for place in ("", "one/", "one/v1/")}


def test_what_it_makes_is_imported_from_anywhere(root, tmp_path_factory):
    generate(root, root)
    code = (
        "from made import two_pb2, two_pb2_grpc\n"
        "from made.one.v1 import one_pb2\n"
        "assert two_pb2.Two(one=one_pb2.One(a=3)).one.a == 3\n"
        "assert two_pb2_grpc.TwosStub\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={"PYTHONPATH": str(root)},
    )


def test_a_second_run_changes_nothing(root):
    assert generate(root, root)
    assert generate(root, root) == []


def test_check_tells_what_differs_and_writes_nothing(root):
    generate(root, root)
    changed, removed = root / "made/two_pb2.py", root / "made/one/v1/one_pb2.pyi"
    changed.write_text("# by hand\n")
    removed.unlink()
    assert generate(root, root, check=True) == sorted([changed, removed])
    assert changed.read_text() == "# by hand\n"
    assert not removed.exists()


def test_stubs_of_a_contract_that_is_gone_go_too(root):
    generate(root, root)
    (root / "made/two.proto").unlink()
    removed = generate(root, root)
    assert {path.name for path in removed} >= {"two_pb2.py", "two_pb2.pyi", "two_pb2_grpc.py"}
    assert not list(root.rglob("two_pb2*"))


def test_it_writes_elsewhere_if_asked(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    generate(root, out)
    assert (out / "made/two_pb2.py").exists()
    assert not list(root.rglob("*_pb2.py"))


def test_a_wrong_contract_is_named_with_its_line(root):
    (root / "made/two.proto").write_text('syntax = "proto3";\nmessage {')
    with pytest.raises(ConfigError, match=r"made/two\.proto:2:9"):
        generate(root, root)


def test_nothing_to_generate_from_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no \.proto file below"):
        generate(tmp_path, tmp_path)


def test_without_the_tools_it_says_what_to_install(root, monkeypatch):
    monkeypatch.setattr("mysingle.cli._proto.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install grpcio-tools"):
        generate(root, root)


async def test_the_command_checks_and_writes(tmp_path):
    root = make_workspace(tmp_path)
    contracts = root / "packages" / "shared-protos" / "shared_protos"
    contracts.mkdir(parents=True)
    (contracts / "one.proto").write_text(ONE)
    refused = await mysingle("proto", "--check", cwd=root)
    made = await mysingle("proto", cwd=contracts)
    passed = await mysingle("proto", "--check", cwd=root)
    assert refused.code == 1
    assert "packages/shared-protos/shared_protos/one_pb2.py" in refused.out
    assert made.out == refused.out
    assert (passed.code, passed.out) == (0, "Everything is up to date\n")
