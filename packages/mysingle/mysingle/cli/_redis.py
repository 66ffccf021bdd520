"""Redis for `mysingle up`, as a child like the services: `python -m mysingle.cli._redis DIRECTORY`.

It prints the URL when Redis answers, and stops Redis at SIGTERM. Being a process kept by
`_keeper.py`, it goes when `up` goes, however that ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from mysingle.core.errors import MysingleError
from mysingle.database._embedded import RedisServer

__all__ = ["main"]


def main() -> int:
    """Runs Redis until SIGTERM; returns the exit code."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        with RedisServer(Path(sys.argv[1]), persistent=True) as server:
            print(server.url, flush=True)
            asked.wait()
    except MysingleError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
