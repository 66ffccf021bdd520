"""`mysingle up` and `demo`: order, addresses, crashes, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from cli_help import make_workspace, mysingle, running

from mysingle.cli import _keeper
from mysingle.cli._ports import free_port, is_free
from mysingle.cli._workspace import discover, find_root, select
from mysingle.core.errors import ConfigError

CRASHING = "print('first'); print('the reason'); raise SystemExit(3)"


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "JOURNAL": str(tmp_path / "journal"), "REDIS_URL": ""}


def journal(tmp_path):
    return [line.split()[:2] for line in (tmp_path / "journal").read_text().splitlines()]


async def gone(pid):
    """Returns when the process has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def ports(n):
    taken = set()
    return [free_port(taken) for _ in range(n)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_up_starts_in_order_tells_addresses_and_stops_in_reverse(
    tmp_path, environment, number
):
    back, front = ports(2)
    root = make_workspace(
        tmp_path,
        a_front={"grpc_port": front, "depends_on": ["b_back"], "try": "call {grpc_port}"},
        b_back={"grpc_port": back},
    )
    async with running("up", "--env", "staging", cwd=root, env=environment) as up:
        await up.until("Ctrl-C stops everything.")
        seen = await up.until("a_front │ REDIS_URL")
        up.process.send_signal(number)
        assert await up.end() == 0
    assert f"localhost:{back}" in seen
    assert f"  call {front}\n" in seen
    assert f"a_front │ B_BACK_GRPC_TARGET=localhost:{back}" in seen
    assert "a_front │ ENVIRONMENT=staging" in seen
    assert re.search(r"a_front │ REDIS_URL=redis://127\.0\.0\.1:\d+", seen)
    assert journal(tmp_path) == [
        ["start", "b_back"],
        ["start", "a_front"],
        ["end", "a_front"],
        ["end", "b_back"],
    ]
    assert is_free(back)
    assert is_free(front)


async def test_up_of_one_service_brings_what_it_depends_on_and_no_more(tmp_path, environment):
    root = make_workspace(
        tmp_path,
        one_service={"grpc_port": 1, "depends_on": ["two_service"]},
        two_service={"grpc_port": 2},
        three_service={"grpc_port": 3},
    )
    async with running("up", "one", "--free-ports", cwd=root, env=environment) as up:
        await up.until("Ctrl-C stops everything.")
    assert {name for _, name in journal(tmp_path)} == {"one_service", "two_service"}


async def test_redis_is_real_and_gone_afterwards(tmp_path, environment):
    import redis.asyncio

    root = make_workspace(tmp_path, one={"grpc_port": 1})
    async with running("up", "--free-ports", cwd=root, env=environment) as up:
        seen = await up.until("REDIS_URL=")
        url = re.search(r"redis://\S+", seen)[0]
        async with redis.asyncio.from_url(url) as client:
            assert await client.ping()
    assert is_free(int(url.rpartition(":")[2]))


async def test_a_service_that_dies_at_start_is_named_with_its_last_words(tmp_path, environment):
    root = make_workspace(
        tmp_path,
        good={"grpc_port": 1},
        bad={"grpc_port": 2, "depends_on": ["good"], "code": CRASHING},
    )
    done = await mysingle("up", "--free-ports", cwd=root, env=environment)
    assert done.code == 1
    assert "bad ended with code 3 before it served" in done.err
    assert "the reason" in done.err
    assert "Traceback" not in done.err
    assert journal(tmp_path) == [["start", "good"], ["end", "good"]]


async def test_a_port_in_use_is_one_line(tmp_path, environment):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        root = make_workspace(tmp_path, one={"grpc_port": port})
        done = await mysingle("up", cwd=root, env=environment)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert f"port {port} of one is in use" in done.err
    assert not (tmp_path / "journal").exists()


async def test_a_service_that_crashes_later_is_reported_and_the_others_go_on(tmp_path, environment):
    root = make_workspace(tmp_path, one={"grpc_port": 1}, two={"grpc_port": 2})
    async with running("up", "--free-ports", cwd=root, env=environment) as up:
        await up.until("Ctrl-C stops everything.")
        pids = {
            line.split()[1]: int(line.split()[2])
            for line in (tmp_path / "journal").read_text().splitlines()
        }
        os.kill(pids["one"], signal.SIGKILL)
        seen = await up.until("ended by itself")
        assert "one ended by itself with code 137; the others go on" in seen
        os.kill(pids["two"], 0)
        os.kill(pids["two"], signal.SIGKILL)
        assert await up.end() == 1
    assert "no service is left" in up.seen


async def test_nothing_survives_the_sudden_death_of_up(tmp_path, environment):
    root = make_workspace(tmp_path, one={"grpc_port": 1}, two={"grpc_port": 2})
    async with running("up", "--free-ports", cwd=root, env=environment) as up:
        seen = await up.until("REDIS_URL=")
        up.process.kill()
        await up.end()
    for line in (tmp_path / "journal").read_text().splitlines():
        await gone(int(line.split()[2]))
    port = int(re.search(r"redis://\S+:(\d+)", seen)[1])
    while not is_free(port):
        await asyncio.to_thread(os.sched_yield)


async def test_the_keeper_kills_what_will_not_end(tmp_path):
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _keeper.__file__, str(read_end), "0.1"),
        *(sys.executable, "-c", code),
        pass_fds=(read_end,),
        stdout=asyncio.subprocess.PIPE,
    )
    os.close(read_end)
    grandchild = int(await process.stdout.readline())
    os.close(write_end)
    assert await process.wait() == 128 + signal.SIGKILL
    await gone(grandchild)
    await process.stdout.read()


async def test_demo_runs_every_demo_and_tells_right_from_wrong(tmp_path, environment):
    say = "import os; print('asked', os.environ['ONE_GRPC_TARGET']); raise SystemExit({})"
    root = make_workspace(
        tmp_path,
        one={"grpc_port": 1, "demo": "python demo.py"},
        two={"grpc_port": 2, "demo": "python demo.py"},
    )
    (root / "services/one/demo.py").write_text(say.format(0))
    (root / "services/two/demo.py").write_text(say.format(0))
    done = await mysingle("demo", cwd=root, env=environment)
    assert done.code == 0, done
    assert done.out.count("asked localhost:") == 2
    assert "Every answer was right" in done.out
    (root / "services/two/demo.py").write_text(say.format(1))
    done = await mysingle("demo", cwd=root, env=environment)
    assert done.code == 1
    assert "Something is wrong with two" in done.out
    assert [word for word, _ in journal(tmp_path)].count("end") == 4


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("port = 1", "unknown key 'port'"),
        ("grpc_port = 'x'\ncommand = 'y'", "grpc_port must be a int"),
        ("grpc_port = 1", "command is missing"),
        ("command = 'y'", "needs a grpc_port or an http_port"),
        ("command = 'y'\ngrpc_port = 1\ndepends_on = ['nope']", "no such service"),
        ("command = [", "pyproject.toml: "),
    ],
)
def test_a_wrong_table_is_one_line_that_names_the_file(tmp_path, table, said):
    root = make_workspace(tmp_path, one={})
    file = root / "services/one/pyproject.toml"
    file.write_text(f"[tool.mysingle.service]\n{table}\n")
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        discover(root)
    assert str(file) in str(caught.value)


def test_a_circle_is_refused(tmp_path):
    root = make_workspace(
        tmp_path,
        one={"grpc_port": 1, "depends_on": ["two"]},
        two={"grpc_port": 2, "depends_on": ["one"]},
    )
    with pytest.raises(ConfigError, match="circle"):
        select(discover(root))


def test_an_unknown_service_is_refused_with_those_there_are(tmp_path):
    root = make_workspace(tmp_path, one={"grpc_port": 1})
    with pytest.raises(ConfigError, match="no service 'two'; there are: one"):
        select(discover(root), ["two"])


def test_the_root_is_found_from_below_and_missed_elsewhere(tmp_path):
    root = make_workspace(tmp_path, one={"grpc_port": 1})
    assert find_root(root / "services" / "one") == root
    with pytest.raises(ConfigError, match="not inside a workspace"):
        find_root(Path("/"))
