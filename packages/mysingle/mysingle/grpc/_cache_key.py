"""Keys of the cache: readable, the same for the same request, never the same for two.

A key reads `Method|user|field=value,field=value|digest`. Patterns find the values in it; the
digest of the whole request makes it unique, whatever was shortened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

__all__ = ["key_of", "pattern_of"]

_MAX_VALUE = 64
_MAX_FIELDS = 512
# Separators, wildcards of Redis, the escape character itself.
_ESCAPED = {ord(c): f"%{ord(c):02X}" for c in "%|=,*?[]\\^"}


def key_of(method: str, user_id: str, request: Message) -> str:
    """The key of a request; an empty user id stands for an answer that all may share."""
    fields = ",".join(f"{path}={value}" for path, value in _fields(request, ""))
    digest = hashlib.blake2b(
        request.SerializeToString(deterministic=True), digest_size=16
    ).hexdigest()
    return f"{_escape(method)}|{_short(user_id)}|{fields[:_MAX_FIELDS]}|{digest}"


def pattern_of(pattern: str) -> str:
    """The pattern for Redis: `*` and `?` are wildcards, all else means itself."""
    return "".join(c if c in "*?|=,%" else _escape(c) for c in pattern)


def _fields(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is None:
            values = value if _repeated(field) else (value,)
            yield path, "+".join(_short(_text(one)) for one in values)
        elif field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                entry = value[key]
                if isinstance(entry, Message):
                    yield from _fields(entry, f"{path}.{_short(_text(key))}.")
                else:
                    yield f"{path}.{_short(_text(key))}", _short(_text(entry))
        elif _repeated(field):
            for index, one in enumerate(value):
                yield from _fields(one, f"{path}.{index}.")
        else:
            yield from _fields(value, f"{path}.")


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _short(text: str) -> str:
    if len(text) > _MAX_VALUE:
        return "#" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return _escape(text)


def _escape(text: str) -> str:
    text = text.translate(_ESCAPED)
    return (
        text
        if text.isprintable()
        else "".join(
            c if c.isprintable() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in text
        )
    )
