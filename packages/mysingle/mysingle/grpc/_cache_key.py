"""Keys of the cache: readable, the same for the same request, never the same for two.

A key reads `Method|u:user|field=value,field=value|package.Service|digest`. Patterns find the
values in it; the digest of everything makes it unique, whatever was shortened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["MAX_VALUE", "escape", "hashed", "key_of"]

MAX_VALUE = 64
"""Characters of a value that stand in a key as they are; a longer one is hashed."""
# Separators, wildcards of Redis, the escape character itself.
_ESCAPED = {ord(c): f"%{ord(c):02X}" for c in "%|=,*?[]\\^"}
_FLOATS = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)


def key_of(method: str, user: str, request: Message, service: str = "") -> str:
    """The key of a request.

    Args:
        method: The method's name.
        user: Whose answer it is; empty for an answer that all may share.
        request: Every set field of it is readable in the key.
        service: The service's full name, which tells apart methods of one name.
    """
    fields = ",".join(f"{path}={value}" for path, value in _fields(request, ""))
    digest = hashlib.blake2b(digest_size=16)
    for part in (method, user, service, request.DESCRIPTOR.full_name):
        raw = part.encode(errors="surrogatepass")
        digest.update(len(raw).to_bytes(4) + raw)
    digest.update(request.SerializeToString(deterministic=True))
    return f"{escape(method)}|{_short(user)}|{fields}|{escape(service)}|{digest.hexdigest()}"


def _fields(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is None:
            yield path, _repeated(field, value) if field.is_repeated else _short(_text(value))
        elif field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                entry = value[key]
                if isinstance(entry, Message):
                    yield from _fields(entry, f"{path}.{_short(_text(key))}.")
                else:
                    yield f"{path}.{_short(_text(key))}", _short(_text(entry))
        elif field.is_repeated:
            for index, one in enumerate(value):
                yield from _fields(one, f"{path}.{index}.")
        else:
            yield from _fields(value, f"{path}.")


def _repeated(field: Any, values: Any) -> str:
    text = "+".join(_short(_text(one)) for one in values)
    if field.type in _FLOATS and len(text) > MAX_VALUE:
        return hashed(text)  # a vector: nobody looks for a number of it
    return text


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _short(text: str) -> str:
    return hashed(text) if len(text) > MAX_VALUE else escape(text)


def hashed(text: str) -> str:
    """What stands in a key for a long value."""
    raw = text.encode(errors="surrogatepass")
    return "#" + hashlib.blake2b(raw, digest_size=16).hexdigest()


def escape(text: str) -> str:
    """Percent-encodes separators, wildcards and what does not print."""
    text = text.translate(_ESCAPED)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _percent(c) for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
