"""`mysingle new service`: in a copy of a workspace, what it makes builds, passes and serves."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from cli_help import make_workspace, mysingle, run, running

from mysingle.cli._scaffold import create
from mysingle.core.errors import ConfigError


@pytest.fixture
def workspace(tmp_path):
    root = make_workspace(tmp_path, old_service={"grpc_port": 50051})
    (root / "packages" / "shared-protos" / "shared_protos").mkdir(parents=True)
    return root


def environment_for(root, name):
    """What installing the contracts and the service would do."""
    places = (root / "packages" / "shared-protos", root / "services" / f"{name}_service")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "REDIS_URL": ""}


async def test_what_it_makes_passes_its_test_and_serves(workspace):
    done = await mysingle("new", "service", "order_book", "--no-install", cwd=workspace)
    assert done.code == 0, done
    environment = environment_for(workspace, "order_book")
    service = workspace / "services" / "order_book_service"

    tested = await run(
        *("pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(service)),
        cwd=workspace,
        env=environment,
    )
    assert tested.code == 0, tested.out
    assert "3 passed" in tested.out

    walked = await mysingle("demo", "order_book", cwd=workspace, env=environment)
    assert walked.code == 0, walked
    assert "greeting: Hello, Ada!" in walked.out

    async with running("up", "order_book", "--free-ports", cwd=workspace, env=environment) as up:
        seen = await up.until("Ctrl-C stops everything.")
        words = re.search(r"mysingle call (\S+) (\S+) '(.*)'", seen).groups()
        called = await mysingle("call", *words)
    assert "Hello, Ada!" in called.out


async def test_what_it_makes_is_clean(workspace):
    (workspace / "ruff.toml").write_text("line-length = 100\nlint.select = ['ALL']\n")
    create(workspace, "zebra")
    service = workspace / "services" / "zebra_service"
    env = environment_for(workspace, "zebra")
    rules = ("E", "F", "I", "UP", "B", "D1", "N", "RUF")
    for words in (
        ("ruff", "check", "--select", ",".join(rules), str(service / "zebra_service")),
        ("ruff", "check", "--select", "E,F,I,UP,B", str(service / "tests")),
        ("ruff", "format", "--check", str(service)),
        ("mypy", "--strict", "--no-incremental", str(service / "zebra_service")),
    ):
        done = await run(*words, cwd=workspace, env={**env, "MYPYPATH": env["PYTHONPATH"]})
        assert done.code == 0, done.out


def test_it_takes_the_next_port_and_tells_mypy(workspace):
    (workspace / "pyproject.toml").write_text(
        '[tool.uv.workspace]\nmembers = []\n[tool.mypy]\nmypy_path = ["packages/mysingle"]\n'
    )
    for name in ("greeter", "farewell_service"):
        create(workspace, name)
    tables = [
        tomllib.loads((workspace / "services" / name / "pyproject.toml").read_text())
        for name in ("greeter_service", "farewell_service")
    ]
    assert [table["tool"]["mysingle"]["service"]["grpc_port"] for table in tables] == [50052, 50053]
    assert tomllib.loads((workspace / "pyproject.toml").read_text())["tool"]["mypy"] == {
        "mypy_path": ["packages/mysingle", "services/greeter_service", "services/farewell_service"]
    }


@pytest.mark.parametrize(
    "name", ["Greeter", "9x", "a b", "../x", "a-b", "", "class", "grpc", "x__y", "_x", "mysingle"]
)
async def test_a_name_that_will_not_do_is_refused_in_one_line(workspace, name):
    done = await mysingle("new", "service", name, cwd=workspace)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "cannot name a service" in done.err
    assert [path.name for path in (workspace / "services").iterdir()] == ["old_service"]


def test_it_overwrites_nothing(workspace):
    create(workspace, "greeter")
    mine = workspace / "services/greeter_service/greeter_service/servicer.py"
    mine.write_text("# mine\n")
    with pytest.raises(ConfigError, match="is there already"):
        create(workspace, "greeter")
    assert mine.read_text() == "# mine\n"


def test_every_template_is_part_of_the_package():
    import mysingle.cli

    templates = Path(mysingle.cli.__file__).with_name("templates")
    names = {str(path.relative_to(templates / "service")) for path in templates.rglob("*.tmpl")}
    assert {"contract.proto.tmpl", "pyproject.toml.tmpl", "dot-env.development.tmpl"} <= names
    assert "tests/test_NAME_service.py.tmpl" in names
