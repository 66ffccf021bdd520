"""Running the command line as a program, and small workspaces to run it in."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass

# A gRPC server with health alone, without the framework, so that it is up at once. It notes in
# $JOURNAL when it starts and ends.
GRPC_SERVICE = """
import asyncio, os, signal, sys
import grpc, grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

def note(word):
    with open(os.environ["JOURNAL"], "a") as journal:
        print(word, os.path.basename(os.getcwd()), os.getpid(), file=journal)

async def main():
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port("localhost:" + os.environ["GRPC_SERVER_PORT"])
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    note("start")
    for name in sorted(os.environ):
        if name.endswith(("_GRPC_TARGET", "_HTTP_URL")) or name in ("REDIS_URL", "ENVIRONMENT"):
            print(name + "=" + os.environ[name], flush=True)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    await server.stop(1)
    note("end")

asyncio.run(main())
"""


@dataclass
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


async def mysingle(*words, cwd=None, stdin=None, env=None):
    """Runs `mysingle WORDS…` to its end."""
    return await run("mysingle", *words, cwd=cwd, stdin=stdin, env=env)


async def run(*words, cwd=None, stdin=None, env=None):
    """Runs `python -m WORDS…` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate((stdin or "").encode())
    return Done(process.returncode, out.decode(), err.decode())


class Running:
    """A program that runs on, and what it prints."""

    def __init__(self, process):
        self.process = process
        self.seen = ""

    async def until(self, text):
        """Reads until `text` was printed; gives all that was read."""
        while text not in self.seen:
            line = await self.process.stdout.readline()
            assert line, f"it ended before it printed {text!r}:\n{self.seen}"
            self.seen += line.decode()
        return self.seen

    async def end(self):
        """Reads the rest; gives the exit code."""
        self.seen += (await self.process.stdout.read()).decode()
        return await self.process.wait()


@asynccontextmanager
async def running(*words, cwd=None, env=None):
    """`mysingle WORDS…` while it runs; killed if the test leaves it running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mysingle", *words),
        cwd=cwd,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    program = Running(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.terminate()
            await program.end()


def make_workspace(root, **services):
    """A workspace whose services are given as `name={key: value of its table}`."""
    (root / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['services/*']\n")
    for name, own in services.items():
        directory = root / "services" / name
        directory.mkdir(parents=True)
        table = {"command": "python main.py", **own}
        (directory / "main.py").write_text(table.pop("code", GRPC_SERVICE))
        lines = [f"{key} = {value!r}" for key, value in table.items()]
        (directory / "pyproject.toml").write_text(
            "\n".join(("[tool.mysingle.service]", *lines, ""))
        )
    return root
