"""Patterns of keys: `*` stands for any text, `?` for one character, all else for itself."""

from __future__ import annotations

import re

from mysingle.grpc._cache_key import MAX_VALUE, escape, hashed

__all__ = ["KeyPattern"]

_MAX_STARS = 6


class KeyPattern:
    """Whether keys match a pattern.

    The pattern holds values as callers know them: `Get*a,b*` matches the key that holds `a%2Cb`,
    and a value too long to stand in a key matches its hash.

    Attributes:
        glob: A pattern for Redis that matches the same keys, and maybe more; [matches][] tells.
    """

    def __init__(self, pattern: str) -> None:
        parts = re.sub(r"\*+", "*", pattern).split("*")
        self._whole = len(parts) == 1
        # Each part is looked for after the one before it, which is as good as all ways to share
        # out the text between them, and cannot take forever as `.*a.*a.*a.*` can.
        self._first = re.compile(_regex(parts[0]))
        self._between = [re.compile(_regex(part)) for part in parts[1:-1]]
        self._last = re.compile(_regex(parts[-1]) + r"\Z")
        globs = [_glob(part) for part in parts]
        if len(parts) > _MAX_STARS:  # Redis does try all ways
            globs = [globs[0], ""]
        self.glob = re.sub(r"\*+", "*", "*".join(globs))

    def matches(self, key: str) -> bool:
        """Whether the whole key matches."""
        if self._whole:
            return self._first.fullmatch(key) is not None
        found = self._first.match(key)
        for part in self._between:
            if found is None:
                return False
            found = part.search(key, found.end())
        return found is not None and self._last.search(key, found.end()) is not None


def _regex(part: str) -> str:
    """A part without `*` as a regular expression."""
    return "(?s:" + ".".join(_literal(run) for run in part.split("?")) + ")"


def _literal(run: str) -> str:
    text = "".join(_character(c) for c in run)
    if len(run) <= MAX_VALUE:
        return text
    choices = [text, re.escape(hashed(run))]
    name, equals, value = run.partition("=")
    if equals and len(value) > MAX_VALUE:
        choices.append(re.escape(f"{name}={hashed(value)}"))
    return f"(?:{'|'.join(choices)})"


def _character(c: str) -> str:
    escaped = escape(c)
    return re.escape(c) if escaped == c else f"(?:{re.escape(c)}|{re.escape(escaped)})"


def _glob(part: str) -> str:
    """A part for Redis: what may be written in several ways there becomes `*`.

    `?` as well, which is one byte to Redis and may be several here.
    """
    runs = ("*" if len(run) > MAX_VALUE else run for run in part.split("?"))
    return "".join(c if c == "*" or escape(c) == c else "*" for c in "*".join(runs))
