"""The command line itself: its help, what it imports, and `serve`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_help import mysingle, running
from click.testing import CliRunner

from mysingle.cli._app import _COMMANDS, cli

SERVER = """
from google.protobuf.wrappers_pb2 import StringValue
from mysingle.grpc.server import BaseGrpcServer

class EmptyServer(BaseGrpcServer):
    def register_servicers(self, server):
        pass

not_a_server = 1
"""


def test_help_imports_nothing_that_takes_long():
    code = (
        "import sys\n"
        "from mysingle.cli._app import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "heavy = {'grpc', 'asyncio', 'rich', 'pydantic', 'google.protobuf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", [*_COMMANDS, "new service"])
def test_each_command_explains_itself_with_examples(name):
    shown = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert shown.exit_code == 0
    if name != "new":
        assert f"    mysingle {name}" in shown.output.replace("  mysingle", "    mysingle")
        assert "Examples:" in shown.output


async def test_an_unknown_command_is_refused():
    done = await mysingle("fly")
    assert done.code == 2
    assert "No such command 'fly'" in done.err


@pytest.fixture
def place(tmp_path):
    (tmp_path / "serve_me.py").write_text(SERVER)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nope:Server", "cannot import nope: No module named 'nope'"),
        ("broken:Server", "cannot import broken: ZeroDivisionError"),
        ("serve_me:Nope", "serve_me has no 'Nope'"),
        ("serve_me:not_a_server", "is no subclass of BaseGrpcServer"),
        ("serve_me", "not of the form module:Class"),
    ],
)
async def test_serve_says_in_one_line_what_is_no_server(place, path, said):
    done = await mysingle("serve", path, cwd=place)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert said in done.err


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
async def test_serve_serves_until_it_is_told_to_stop(place, workers):
    words = ("serve", "serve_me:EmptyServer", "--port", "0", *workers)
    async with running(*words, cwd=place) as server:
        seen = await server.until("gRPC listening on ")
        line = next(line for line in seen.splitlines() if "gRPC listening on" in line)
        target = line.partition(" on ")[2].split()[0]
        assert ("2 workers" in line) == bool(workers)
        assert (await mysingle("health", target)).out == "SERVING\n"
        server.process.terminate()
        assert await server.end() == 0


async def test_serve_starts_anew_when_code_changes(place):
    words = ("serve", "serve_me:EmptyServer", "--port", "0", "--reload")
    async with running(*words, cwd=place) as server:
        await server.until("gRPC listening on ")
        server.seen = ""
        (place / "serve_me.py").write_text(SERVER + "print('changed indeed', flush=True)\n")
        await server.until("changed indeed")
        await server.until("gRPC listening on ")
        server.process.terminate()
        assert await server.end() == 0
