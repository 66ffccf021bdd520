"""Bearer tokens: JSON Web Tokens (RFC 7519), verified with PyJWT."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jwt

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._jwks import KeySet

__all__ = ["InvalidToken", "TokenVerifier", "jwt_is_configured"]

_MAX_TOKEN = 8192
_MAX_REMEMBERED = 1024
_SYMMETRIC = ("HS256",)
_ASYMMETRIC = ("RS256", "ES256")


class InvalidToken(Exception):
    """A token that does not count.

    The text is for the caller and always one of a few constants; `reason` is for our log.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def jwt_is_configured(settings: CommonSettings) -> bool:
    """Whether any key to verify tokens with is set."""
    return bool(
        settings.GRPC_JWT_SECRET or settings.GRPC_JWT_PUBLIC_KEY_FILE or settings.GRPC_JWT_JWKS
    )


class TokenVerifier:
    """Verifies tokens and gives their subject.

    A token that was verified is remembered until it expires, so that a signature is checked
    once and not at each call.

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
        named = [
            name
            for name in ("GRPC_JWT_SECRET", "GRPC_JWT_PUBLIC_KEY_FILE", "GRPC_JWT_JWKS")
            if getattr(settings, name)
        ]
        if len(named) != 1:
            raise ConfigError(
                "JWT needs exactly one of GRPC_JWT_SECRET, GRPC_JWT_PUBLIC_KEY_FILE, "
                f"GRPC_JWT_JWKS; set: {', '.join(named) or 'none'}"
            )
        if settings.GRPC_JWT_SECRET is not None:
            self._key = settings.GRPC_JWT_SECRET.get_secret_value()
            if len(self._key.encode()) < 32:  # RFC 7518 3.2: as long as the hash
                raise ConfigError("GRPC_JWT_SECRET must be at least 32 bytes long")
            possible: tuple[str, ...] = _SYMMETRIC
        elif settings.GRPC_JWT_PUBLIC_KEY_FILE is not None:
            self._key, possible = _public_key(settings.GRPC_JWT_PUBLIC_KEY_FILE)
        else:
            self._keys = KeySet(settings.GRPC_JWT_JWKS)
            possible = _ASYMMETRIC
        # The key decides which algorithms count, never the token: a token that says HS256 must
        # not be checked with a public key as its secret.
        for algorithm in settings.GRPC_JWT_ALGORITHMS:
            if algorithm not in possible:
                raise ConfigError(
                    f"GRPC_JWT_ALGORITHMS: {algorithm!r} does not go with {named[0]}; "
                    f"possible: {', '.join(possible)}"
                )
        self._algorithms = list(settings.GRPC_JWT_ALGORITHMS or possible)
        self._remembered: OrderedDict[bytes, tuple[str, float, int]] = OrderedDict()

    def known(self, token: str) -> str | None:
        """The subject of a token that was verified before; None if it has to be verified.

        Raises:
            InvalidToken: It is too long.
        """
        if len(token) > _MAX_TOKEN:
            raise InvalidToken("Invalid token", "longer than 8 KiB")
        found = self._remembered.get(_hash(token))
        if found is None:
            return None
        subject, expires, generation = found
        if time.time() >= expires or generation != self._generation:
            del self._remembered[_hash(token)]
            return None
        return subject

    async def verify(self, token: str) -> str:
        """The subject of a token.

        Raises:
            InvalidToken: It is malformed, forged, expired, not yet valid, or for others.
        """
        key = self._key if self._keys is None else await self._key_of(token, self._keys)
        claims = self._claims(token, key)
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject.strip() or len(subject) > 256:
            raise InvalidToken("Invalid token", "empty or overlong subject")
        self._remembered[_hash(token)] = (
            subject,
            float(claims["exp"]) + self._leeway,
            self._generation,
        )
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return subject

    @property
    def _generation(self) -> int:
        return self._keys.generation if self._keys is not None else 0

    def _claims(self, token: str, key: Any) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                issuer=self._issuer or None,
                audience=self._audience or None,
                leeway=self._leeway,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": bool(self._audience),
                    "verify_iss": bool(self._issuer),
                },
            )
        except jwt.ExpiredSignatureError:
            raise InvalidToken("Token expired") from None
        except jwt.PyJWTError as error:
            raise InvalidToken("Invalid token", type(error).__name__) from None

    async def _key_of(self, token: str, keys: KeySet) -> Any:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise InvalidToken("Invalid token", type(error).__name__) from None
        if header.get("alg") not in self._algorithms:
            raise InvalidToken("Invalid token", "algorithm not allowed")
        kid = header.get("kid")
        key = await keys.find(kid if isinstance(kid, str) else "")
        if key is None:
            raise InvalidToken("Invalid token", "unknown key id")
        return key


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _public_key(path: Path) -> tuple[Any, tuple[str, ...]]:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"GRPC_JWT_PUBLIC_KEY_FILE: cannot read {path}: {error.strerror}"
        ) from None
    except ValueError:
        raise ConfigError(f"GRPC_JWT_PUBLIC_KEY_FILE: {path} is no PEM public key") from None
    if isinstance(key, RSAPublicKey):
        return key, ("RS256",)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key, ("ES256",)
    raise ConfigError(f"GRPC_JWT_PUBLIC_KEY_FILE: {path} is neither an RSA nor a P-256 key")
