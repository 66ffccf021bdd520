"""One service as a child process: its output, its end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Child"]

_KEEPER = Path(__file__).with_name("_keeper.py")
_TAIL_LINES = 20
_LONGEST_LINE = 1 << 20


class Child:
    """A running command, kept by `_keeper.py`; see there why none survives this process.

    Attributes:
        name: The name of the service.
        tail: The last lines it printed.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = process
        self._lifeline: int | None = lifeline
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        grace: float,
        output: Callable[[str, str], None],
    ) -> Child:
        """Starts a command.

        Args:
            name: The name of the service, handed to `output`.
            argv: The command; `python` is the interpreter that runs this.
            directory: Where to run it.
            environment: All of its environment variables.
            grace: Seconds it may take to end after [stop][Child.stop].
            output: Called with the name and each line it prints on either stream.
        """
        words = [sys.executable if argv[0] == "python" else argv[0], *argv[1:]]
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_KEEPER), str(read_end), str(grace)),
                *words,
                cwd=directory,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(read_end,),
                start_new_session=True,  # a Ctrl-C of the terminal is for `up` alone
                limit=_LONGEST_LINE,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        child = cls(name, process, write_end)
        child._reading = asyncio.create_task(child._read(output))
        return child

    @property
    def pid(self) -> int:
        """The process id of the keeper."""
        return self._process.pid

    async def wait(self) -> int:
        """Returns the exit code when the command has ended and all its output was read."""
        code = await self._process.wait()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        return code

    async def stop(self) -> None:
        """SIGTERM, a grace to drain, SIGKILL; returns when it is gone."""
        self._cut()
        await self.wait()

    def kill(self) -> None:
        """SIGKILL, now, for all of its processes."""
        if self._lifeline is not None:
            with suppress(BrokenPipeError):
                os.write(self._lifeline, b"k")

    def _cut(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def _read(self, output: Callable[[str, str], None]) -> None:
        stream = self._process.stdout
        while stream is not None:
            try:
                raw = await stream.readline()
            except ValueError:  # a line beyond the limit: asyncio has thrown it away
                raw = b"(a line too long to show)\n"
            if not raw:
                return
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self.tail.append(line)
            output(self.name, line)
