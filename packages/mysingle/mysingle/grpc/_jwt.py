"""Bearer tokens: JSON Web Tokens (RFC 7519), verified with PyJWT."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import jwt

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._context import CallContext
from mysingle.grpc._identity import Unidentified, is_user_id
from mysingle.grpc._jwks import KeySet, algorithm_of, key_set

__all__ = ["InvalidToken", "KeysAway", "TokenVerifier"]

_MAX_TOKEN = 8192
_MAX_REMEMBERED = 10_000
_MIN_SECRET_BYTES = 32
_KEY_SETTINGS = ("GRPC_JWT_SECRET", "GRPC_JWT_PUBLIC_KEY_FILE", "GRPC_JWT_JWKS")


class InvalidToken(Unidentified):
    """There is no token, or one that does not count."""


class KeysAway(Unidentified):
    """There is a token, and no key to verify any with yet: the caller is not at fault."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_after = 1.0


class TokenVerifier:
    """Verifies tokens and gives their subject. It belongs to one event loop.

    A token that was verified is remembered by its hash until it expires or the keys change, so
    that a signature is checked once and not at each call.

    Args:
        settings: Key, algorithms, issuer, audience and leeway. Without an issuer or audience
            those claims are not looked at.

    Raises:
        ConfigError: No key is set, more than one is, a file cannot be read, or an algorithm
            does not fit the key.
    """

    def __init__(self, settings: CommonSettings) -> None:
        self._issuer = settings.GRPC_JWT_ISSUER
        self._audience = settings.GRPC_JWT_AUDIENCE
        self._leeway = settings.GRPC_JWT_LEEWAY_SECONDS
        self._key: Any = None
        self._keys: KeySet | None = None
        named = [name for name in _KEY_SETTINGS if getattr(settings, name)]
        if len(named) != 1:
            raise ConfigError(
                f"JWT needs exactly one of {', '.join(_KEY_SETTINGS)}; "
                f"set: {', '.join(named) or 'none'}"
            )
        if settings.GRPC_JWT_SECRET:
            self._key = _secret(settings.GRPC_JWT_SECRET.get_secret_value())
            possible = ["HS256"]
        elif settings.GRPC_JWT_PUBLIC_KEY_FILE:
            self._key = _public_key(settings.GRPC_JWT_PUBLIC_KEY_FILE)
            possible = [algorithm_of(self._key)]
        else:
            self._keys = key_set(settings.GRPC_JWT_JWKS)
            possible = ["RS256", "ES256"]
        # The key decides which algorithms count, never the token: a token that says HS256 must
        # not be checked with a public key as its secret.
        for algorithm in settings.GRPC_JWT_ALGORITHMS:
            if algorithm not in possible:
                raise ConfigError(
                    f"GRPC_JWT_ALGORITHMS: {algorithm!r} does not go with {named[0]}; "
                    f"possible: {', '.join(possible)}"
                )
        self._algorithms = settings.GRPC_JWT_ALGORITHMS or possible
        self._remembered: OrderedDict[bytes, tuple[str, float, int]] = OrderedDict()

    def identify(self, call: CallContext) -> str | Awaitable[str]:
        """The subject of the token in `authorization: Bearer …`; otherwise as [verify][].

        Raises:
            InvalidToken: There is no token, or it does not count.
        """
        sent = {value for key, value in call.invocation_metadata() if key == "authorization"}
        if len(sent) > 1:  # whoever reads the other one would see another user
            raise InvalidToken("Invalid token", "more than one authorization")
        scheme, _, token = str(sent.pop() if sent else "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise InvalidToken("Missing bearer token")
        return self.verify(token)

    def verify(self, token: str) -> str | Awaitable[str]:
        """The subject of a token; an awaitable of it if the key has to be fetched first.

        Raises:
            InvalidToken: It is malformed, forged, expired, not yet valid, or for others.
            KeysAway: Awaited only: no key could be fetched yet.
        """
        if len(token) > _MAX_TOKEN:
            raise InvalidToken("Invalid token", "longer than 8 KiB")
        if self._keys is None:
            return self._recall(token, 0) or self._check(token, self._key, self._algorithms, 0)
        self._keys.refresh()
        subject = self._recall(token, self._keys.generation)
        if subject is not None:
            return subject
        key_id, algorithm = self._header(token)
        key = self._keys.find(key_id, algorithm)
        if key is None:
            return self._check_when_found(token, key_id, algorithm, self._keys)
        return self._check(token, key.public, [algorithm], self._keys.generation)

    async def close(self) -> None:
        """Ends a fetch of keys that is under way."""
        if self._keys is not None:
            await self._keys.close()

    async def _check_when_found(self, token: str, key_id: str, algorithm: str, keys: KeySet) -> str:
        key = await keys.look_up(key_id, algorithm)
        if key is not None:
            return self._check(token, key.public, [algorithm], keys.generation)
        if keys.is_empty:
            raise KeysAway("Tokens cannot be verified just now", "no keys yet")
        raise InvalidToken("Invalid token", "unknown key")

    def _header(self, token: str) -> tuple[str, str]:
        """The key and the algorithm that a token names, which proves nothing yet."""
        try:
            header = jwt.get_unverified_header(token)
        except Exception as error:  # a stranger's bytes: nothing they cause may pass as ours
            raise InvalidToken("Invalid token", type(error).__name__) from None
        key_id, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._algorithms:
            raise InvalidToken("Invalid token", "algorithm not allowed")
        return key_id if isinstance(key_id, str) else "", algorithm

    def _check(self, token: str, key: Any, algorithms: list[str], generation: int) -> str:
        """The subject, once signature and claims are verified."""
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                issuer=self._issuer or None,
                audience=self._audience or None,
                leeway=self._leeway,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": bool(self._audience),
                    "verify_iss": bool(self._issuer),
                },
            )
            subject, expires = claims["sub"], float(claims["exp"]) + self._leeway
        except jwt.ExpiredSignatureError:
            raise InvalidToken("Token expired") from None
        except Exception as error:  # a stranger's bytes: nothing they cause may pass as ours
            raise InvalidToken("Invalid token", type(error).__name__) from None
        if not is_user_id(subject):
            raise InvalidToken("Invalid token", "the subject can be no user id")
        self._remembered[_hash(token)] = (subject, expires, generation)
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return str(subject)

    def _recall(self, token: str, generation: int) -> str | None:
        """The subject of a token that was verified before with the keys of now."""
        name = _hash(token)
        found = self._remembered.get(name)
        if found is None:
            return None
        subject, expires, verified_with = found
        if time.time() >= expires or verified_with != generation:
            del self._remembered[name]
            return None
        self._remembered.move_to_end(name)
        return subject


def _hash(token: str) -> bytes:
    """What stands for a token in memory, where tokens themselves have no business."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _secret(value: str) -> str:
    if len(value.encode()) < _MIN_SECRET_BYTES:  # RFC 7518 3.2: as long as the hash
        raise ConfigError(f"GRPC_JWT_SECRET must be at least {_MIN_SECRET_BYTES} bytes long")
    if "-----BEGIN" in value:
        raise ConfigError(
            "GRPC_JWT_SECRET holds a PEM key; a public key belongs into GRPC_JWT_PUBLIC_KEY_FILE"
        )
    return value


def _public_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"GRPC_JWT_PUBLIC_KEY_FILE: cannot read {path}: {error.strerror}"
        ) from None
    except Exception:  # cryptography has several kinds for it
        raise ConfigError(f"GRPC_JWT_PUBLIC_KEY_FILE: {path} is no PEM public key") from None
    if not algorithm_of(key):
        raise ConfigError(
            f"GRPC_JWT_PUBLIC_KEY_FILE: {path} is neither an RSA key (2048 bits or more) "
            "nor a P-256 key"
        )
    return key
