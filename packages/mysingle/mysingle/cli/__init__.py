"""The `mysingle` command.

Each command is a module of its own that is imported when the command is used. None of them
imports grpc, asyncio or rich at its top: `mysingle --help` shall be there at once.
"""

from __future__ import annotations

from mysingle.cli._app import main

__all__ = ["main"]
