"""JSON Web Key Sets (RFC 7517) from a file or a URL, cached."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mysingle.core.errors import ConfigError

__all__ = ["FileKeySet", "Key", "KeySet", "UrlKeySet", "algorithm_of", "key_set"]

_log = logging.getLogger("mysingle.grpc")
_LIFETIME_SECONDS = 300.0
_REFETCH_SECONDS = 10.0
_FIRST_FETCH_SECONDS = 1.0
_FILE_CHECK_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 1024 * 1024
_MIN_RSA_BITS = 2048


@dataclass(frozen=True)
class Key:
    """A public key and the one algorithm it verifies.

    Attributes:
        key_id: Its `kid`; empty if it has none.
        algorithm: `RS256` or `ES256`.
        encoded: The key as bytes, to tell keys apart.
        public: The key for PyJWT.
    """

    key_id: str
    algorithm: str
    encoded: bytes
    public: Any = field(compare=False)


class KeySet:
    """Public keys by id and algorithm. It belongs to one event loop.

    Attributes:
        generation: Grows whenever the keys changed.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._keys: tuple[Key, ...] = ()
        self._reported = False

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever read."""
        return not self._keys

    def refresh(self) -> None:
        """Sees to it that keys which are due are read again; call it before `find`."""

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """The key with this id, or without an id the only one there is, for this algorithm."""
        fitting = [
            key
            for key in self._keys
            if key.algorithm == algorithm and (not key_id or key.key_id == key_id)
        ]
        return fitting[0] if len(fitting) == 1 else None

    async def look_up(self, key_id: str, algorithm: str) -> Key | None:
        """The same for a key that `find` did not know: asks the source if it may be asked."""
        return self.find(key_id, algorithm)

    async def close(self) -> None:
        """Ends a fetch that is under way."""

    def _take(self, content: bytes) -> None:
        keys = _parse(content)
        if keys != self._keys:
            self._keys = keys
            self.generation += 1
        if self._reported:
            self._reported = False
            _log.info("the keys of GRPC_JWT_JWKS are read again")

    def _report(self, error: Exception) -> None:
        """Once, not at each try."""
        if not self._reported:
            self._reported = True
            _log.warning(
                "the keys of GRPC_JWT_JWKS cannot be read%s: %s",
                "" if self.is_empty else ", the old ones go on serving",
                error,
            )


class FileKeySet(KeySet):
    """Keys in a file, read again when it was replaced; one that is broken is not taken.

    Args:
        path: The file. It is looked at once a second, and when a token names an unknown key.

    Raises:
        ConfigError: It cannot be read, or is no key set.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._stamp = _stamp(path)
        self._checked = time.monotonic()
        try:
            self._take(self._read())
        except OSError as error:
            raise ConfigError(f"GRPC_JWT_JWKS: cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"GRPC_JWT_JWKS: {path} is no key set: {error}") from None

    def refresh(self) -> None:
        """See [KeySet][]."""
        if time.monotonic() - self._checked >= _FILE_CHECK_SECONDS:
            self._read_if_changed()

    async def look_up(self, key_id: str, algorithm: str) -> Key | None:
        """See [KeySet][]."""
        self._read_if_changed()
        return self.find(key_id, algorithm)

    def _read_if_changed(self) -> None:
        self._checked = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._read())
        except (OSError, ValueError) as error:
            self._report(error)

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return _limited(file.read(_MAX_BYTES + 1))


class UrlKeySet(KeySet):
    """Keys behind a URL.

    They are fetched when the first token comes, again after five minutes, and when a token
    names an unknown key, but at most every ten seconds: callers who are nobody yet must not be
    able to make us ask without end. While there is no key at all yet, the source is tried once
    a second. Whoever needs the answer waits for the one fetch that is under way; while the
    source is away, the keys that were there go on serving.

    Proxies are those of the environment, and so are further trusted authorities
    (`SSL_CERT_FILE`). Redirects are not followed.

    Args:
        url: `https://`, or `http://` on the loopback.

    Raises:
        ConfigError: The URL is of another kind.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        parts = _split(url)
        handlers: list[Any] = [_NoRedirects()]
        if _is_loopback(parts.hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self._handlers = handlers
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """See [KeySet][]."""
        if not self.is_empty and time.monotonic() - self._fetched >= _LIFETIME_SECONDS:
            self._fetch_if_allowed()

    async def look_up(self, key_id: str, algorithm: str) -> Key | None:
        """See [KeySet][]."""
        self._fetch_if_allowed()
        if self._fetching is not None:
            # asyncio.wait leaves the task alone when the caller who waits is cancelled, and the
            # limit is for what no time-out of a socket covers, such as the look-up of a name.
            await asyncio.wait([self._fetching], timeout=2 * _TIMEOUT_SECONDS)
        return self.find(key_id, algorithm)

    async def close(self) -> None:
        """See [KeySet][]."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _fetch_if_allowed(self) -> None:
        now = time.monotonic()
        pause = _FIRST_FETCH_SECONDS if self.is_empty else _REFETCH_SECONDS
        under_way = self._fetching is not None and not self._fetching.done()
        if not under_way and now - self._tried >= pause:
            self._tried = now
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._read))
        except Exception as error:  # whatever it is, a caller's token is not at fault
            self._report(error)
        else:
            self._fetched = time.monotonic()

    def _read(self) -> bytes:
        ends = time.monotonic() + _TIMEOUT_SECONDS
        opener = urllib.request.build_opener(*self._handlers)
        content = b""
        with opener.open(self._url, timeout=_TIMEOUT_SECONDS) as answer:
            while chunk := answer.read1(64 * 1024):
                content = _limited(content + chunk)
                if time.monotonic() > ends:  # a socket's time-out starts anew with each byte
                    raise TimeoutError("the answer takes too long")
        return content


def key_set(source: str) -> FileKeySet | UrlKeySet:
    """The keys in a file or behind a URL.

    Raises:
        ConfigError: See [FileKeySet][] and [UrlKeySet][].
    """
    return UrlKeySet(source) if "://" in source else FileKeySet(Path(source))


def algorithm_of(key: Any) -> str:
    """The algorithm that a key of this kind verifies; empty if it is none that we take."""
    if isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return "ES256"
    return ""


def _parse(content: bytes) -> tuple[Key, ...]:
    """The keys of a set that we can use; others are left out, as RFC 7517 asks.

    Raises:
        ValueError: It is no key set, or holds no such key.
    """
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not of the form {'keys': [...]}") from None
    found = [_key(entry) for entry in entries] if isinstance(entries, list) else []
    keys = tuple(dict.fromkeys(key for key in found if key is not None))
    if not keys:
        raise ValueError("it holds no public RSA (2048 bits or more) or P-256 key for signatures")
    return keys


def _key(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    if entry.get("kty") not in ("RSA", "EC"):  # never a shared secret out of a public place
        return None
    try:
        public = jwt.PyJWK.from_dict(entry).key
    except Exception:  # one that is broken must not take the others with it
        return None
    algorithm = algorithm_of(public)
    if not algorithm or entry.get("alg", algorithm) != algorithm:
        return None
    key_id = entry.get("kid", "")
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(key_id if isinstance(key_id, str) else "", algorithm, encoded, public)


def _limited(content: bytes) -> bytes:
    if len(content) > _MAX_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return content


def _stamp(path: Path) -> tuple[int, int, int]:
    """Tells a file from what it was before; a missing one has a stamp too."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if host and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        return parts
    # Without the URL, which may hold a password.
    raise ConfigError("GRPC_JWT_JWKS must be a file or an https:// URL (http:// on the loopback)")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
