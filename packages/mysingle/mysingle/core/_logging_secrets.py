"""Keeps secrets out of log lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["clean", "is_suspect", "mask"]

_MASK: Final = "***"
_DEEPEST: Final = 6
_SECRET_KEY: Final = re.compile(
    r"authorization|token|password|passwd|secret|cookie|api[-_]?key|private[-_]?key", re.IGNORECASE
)
# What stands between a name and its value: `=`, `: `, and the quotes of Python and JSON, those
# escaped once more too; `', '` in a pair, and what grpc's metadata shows of itself.
_BETWEEN: Final = r"""(?:\\*["']?[ \t]*[=:][ \t]*|\\*["'][ \t]*,[ \t]*(?:value=)?)"""
_VALUE: Final = r"""b?(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\\+"[^"]*"?|{rest})"""
_ASSIGNED: Final = re.compile(
    # A header's value is the rest of its line: `Basic dXNlcg==`, `a=1; b=2`.
    rf"(?P<header>(?:authorization|cookie){_BETWEEN})" + _VALUE.format(rest=r"[^\r\n\"']+") + "|"
    r"(?P<name>(?:password|passwd|secret|token|api[-_]?key|private[-_]?key)[\w-]{0,20}"
    rf"{_BETWEEN})" + _VALUE.format(rest=r"\S+"),
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(
    r"(?P<word>\b[Bb][Ee][Aa][Rr][Ee][Rr]\s+)[^\s\"',;]+|eyJ[\w-]{5,}\.[\w-]+\.[\w-]*"
)
_URL_PASSWORD: Final = re.compile(r"(?<=://)(?P<user>[^\s/:@]{0,100}:)[^\s/@]+(?=@)")
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Each name and form above holds one of these; `ey` is in every key and begins every JWT.
_HINTS: Final = ("ey", "token", "passw", "secret", "bearer", "cookie", "authorization")


def is_suspect(text: str) -> bool:
    """Whether the text may hold a secret.

    Few do, and looking for these words is a hundred times faster than [mask][], whose
    expressions try every position.
    """
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            return True
    return "://" in lowered and "@" in lowered


def mask(text: str) -> str:
    """The text with `***` for tokens, passwords and the values of secret names."""
    if not is_suspect(text):
        return text
    text = _PRIVATE_KEY.sub(_MASK, text)
    text = _ASSIGNED.sub(lambda found: (found["header"] or found["name"]) + _MASK, text)
    text = _TOKEN.sub(lambda found: (found["word"] or "") + _MASK, text)
    return _URL_PASSWORD.sub(lambda found: found["user"] + _MASK, text)


def clean(key: str, value: Any, depth: int = 0) -> Any:
    """The value as JSON can hold it, without secrets at any depth.

    What is no JSON becomes its text; what nests deeper than six levels, `…`. It never raises.
    """
    if _SECRET_KEY.search(key):
        return _MASK
    if isinstance(value, str):
        return mask(str(value))
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        if isinstance(value, Mapping):
            return _mapping(value.items(), depth)
        if isinstance(value, list | tuple | set | frozenset):
            return _sequence(value, depth)
        return mask(str(value))
    except Exception:  # the object's own __str__ or items(): no reason to lose the line
        return f"<{type(value).__name__}>"


def _mapping(items: Iterable[tuple[Any, Any]], depth: int) -> Any:
    if depth >= _DEEPEST:
        return "…"
    return {mask(str(key)): clean(str(key), one, depth + 1) for key, one in items}


def _sequence(values: Iterable[Any], depth: int) -> Any:
    if depth >= _DEEPEST:
        return "…"
    match values:
        case (str() | bytes() as key, value):  # a pair, as metadata and headers have them
            return [clean("", key), clean(str(key), value, depth + 1)]
        case _:
            return [clean("", one, depth + 1) for one in values]
