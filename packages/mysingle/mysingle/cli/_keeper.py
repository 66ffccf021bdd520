"""The process that stands between `mysingle up` and one service, so that none is orphaned.

It runs as a plain script, without `site` and without this package, so that it starts at once:

    python -I -S _keeper.py LIFELINE GRACE COMMAND...

`LIFELINE` is the file descriptor of a pipe whose other end only `up` holds. When `up` closes it,
or dies in any way (SIGKILL, out of memory), this process reads the end of file and stops the
service: SIGTERM, `GRACE` seconds to drain, then SIGKILL for its whole process group. A byte on
the lifeline means SIGKILL now. A process group alone would not do, because nobody is left to
signal it; PR_SET_PDEATHSIG alone would not do, because it sends one signal that a service may
take its time over, and is unknown outside Linux. It is used as well, against the death of this
process itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main() -> int:
    """Runs the command until it ends or the lifeline is cut; returns its exit code."""
    lifeline, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        # One thread so far, so running Python between fork and exec is safe here.
        child = subprocess.Popen(command, process_group=0, preexec_fn=_in_child)  # noqa: PLW1509
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if os.read(lifeline, 1):
                _signal_group(child.pid, signal.SIGKILL)
                continue
            # SIGTERM to the leader only: it knows in which order its own children stop.
            child.send_signal(signal.SIGTERM)
            if not ended.wait(grace):
                _signal_group(child.pid, signal.SIGKILL)
            return

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    ended.set()
    _signal_group(child.pid, signal.SIGKILL)  # whatever the service left behind
    return code if code >= 0 else 128 - code


def _in_child() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
