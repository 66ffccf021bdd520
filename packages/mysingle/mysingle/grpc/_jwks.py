"""JSON Web Key Sets (RFC 7517) from a file or a URL, cached."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

from mysingle.core.errors import ConfigError

__all__ = ["KeySet"]

_log = logging.getLogger("mysingle.grpc")
_LIFETIME = 300.0
_MIN_BETWEEN_FETCHES = 10.0
_TIMEOUT = 5.0
_MAX_SIZE = 1024 * 1024


class KeySet:
    """Public keys by their id.

    Keys are fetched again after five minutes, or when a token names an unknown one, but at most
    every ten seconds: callers who are nobody yet must not be able to make us ask without end.
    While the source is away the keys that were there go on serving.

    Args:
        source: A file, or an `https://` URL (`http://` on the loopback).

    Attributes:
        generation: Grows whenever the keys changed.

    Raises:
        ConfigError: The source is a plain `http://` URL, or a file that holds no key set.
    """

    def __init__(self, source: str) -> None:
        self._url = source if "://" in source else ""
        self._path = None if self._url else Path(source)
        self.generation = 0
        self._keys: dict[str, Any] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._reported = False
        if self._url:
            _check_url(self._url)
        else:
            try:
                self._take(self._read())
            except (OSError, ValueError, jwt.PyJWTError) as error:
                raise ConfigError(f"GRPC_JWT_JWKS: {source} is no key set: {error}") from None

    async def find(self, key_id: str) -> Any:
        """The key with this id; without an id the only key there is; None if there is none."""
        now = time.monotonic()
        key = self._pick(key_id)
        stale = now - self._fetched > _LIFETIME
        if (key is None or stale) and now - self._tried > _MIN_BETWEEN_FETCHES:
            self._tried = now
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        if key is None and self._fetching is not None:
            # Shielded: the caller who leaves must not take the keys of those who wait too.
            await asyncio.shield(self._fetching)
            key = self._pick(key_id)
        return key

    def _pick(self, key_id: str) -> Any:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _fetch(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._read))
        except Exception as error:
            if not self._reported:
                self._reported = True
                _log.warning("the keys of GRPC_JWT_JWKS cannot be fetched: %s", error)
        else:
            self._reported = False

    def _read(self) -> bytes:
        if self._path is not None:
            return self._path.read_bytes()
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(self._url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(_MAX_SIZE + 1)
        if len(content) > _MAX_SIZE:
            raise ValueError("the key set is larger than 1 MiB")
        return content

    def _take(self, content: bytes) -> None:
        parsed = json.loads(content)
        keys = {}
        for entry in jwt.PyJWKSet.from_dict(parsed).keys:
            if entry.key_type in ("RSA", "EC"):  # never a shared secret out of a public place
                keys[entry.key_id or ""] = entry.key
        if not keys:
            raise ValueError("it has no RSA or EC key")
        self._keys = keys
        self.generation += 1
        self._fetched = time.monotonic()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return
    raise ConfigError("GRPC_JWT_JWKS must be a file or an https:// URL (http:// on the loopback)")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
