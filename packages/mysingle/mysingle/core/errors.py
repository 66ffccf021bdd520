"""Errors that a person starting the program should read, as opposed to a caller."""

from __future__ import annotations


class MysingleError(Exception):
    """Base of every error this package raises on its own account.

    The text is one line that names the setting, file or option at fault; commands print it
    and exit with code 1, without a traceback.
    """


class ConfigError(MysingleError, ValueError):
    """A setting, option or file given by the operator is missing or wrong."""


class StartError(MysingleError, RuntimeError):
    """A server could not start: port in use, hook failed, certificate unreadable."""
