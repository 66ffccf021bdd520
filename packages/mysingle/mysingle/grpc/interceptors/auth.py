"""Step 2: who calls."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._context import CallContext
from mysingle.grpc._errors import GrpcError
from mysingle.grpc._identity import Unidentified, from_certificate, from_header
from mysingle.grpc._method import MethodSet
from mysingle.grpc.interceptors._base import Interceptor

if TYPE_CHECKING:
    from mysingle.grpc._jwt import TokenVerifier

__all__ = ["AuthInterceptor"]

_log = logging.getLogger("mysingle.grpc")


class AuthInterceptor(Interceptor):
    """Finds the user id, or refuses the call with `UNAUTHENTICATED`.

    Where it comes from is `GRPC_AUTH_IDENTITY`:

    - `user-id`: the metadata `user-id` or `x-user-id`. Whoever can reach the port can write
      it, so this is for networks where only a gateway can.
    - `jwt`: the subject of the bearer token, once verified. A `user-id` sent along is ignored.
    - `mtls`: the name in the client's certificate: its first URI, DNS name or email among the
      alternative names, else its common name. A `user-id` sent along is ignored.
    - `auto`: `jwt` where a key to verify tokens with is set, else `user-id`.

    Exempt methods need no identity. A valid one sent to them is used all the same; an invalid
    one counts as none.

    Without this step (`GRPC_ENABLE_AUTH=false`) nobody is identified: a `user-id` header is
    only a claim then, and neither cache keys nor the rate limit go by it.

    Args:
        settings: Where identities come from, and what proves them.
        exempt: Methods that serve anybody.

    Raises:
        ConfigError: The chosen source lacks the setting it needs; one line names it.
    """

    def __init__(self, settings: CommonSettings, exempt: MethodSet) -> None:
        self._exempt = exempt
        self._verifier: TokenVerifier | None = None
        self._identify: Callable[[CallContext], str | Awaitable[str]] = from_header
        source = _source_of(settings)
        if source == "jwt":
            # Here, because PyJWT and cryptography take a tenth of a second to load.
            from mysingle.grpc._jwt import TokenVerifier

            self._verifier = TokenVerifier(settings)
            self._identify = self._verifier.identify
        elif source == "mtls":
            self._identify = from_certificate

    def before(self, call: CallContext) -> Awaitable[None] | None:
        """Sets the user id in the request context; waits only where keys have to be fetched.

        Raises:
            GrpcError: `UNAUTHENTICATED`; the method is not exempt and nobody was identified.
                `UNAVAILABLE`; there is a token, and no key could be fetched yet.
        """
        try:
            found = self._identify(call)
        except Unidentified as error:
            self._go_on_without(call, error)
            return None
        if isinstance(found, str):
            call.request_context.user_id = found
            return None
        return self._when_verified(call, found)

    async def close(self) -> None:
        """Ends a fetch of keys that is under way."""
        if self._verifier is not None:
            await self._verifier.close()

    async def _when_verified(self, call: CallContext, found: Awaitable[str]) -> None:
        try:
            call.request_context.user_id = await found
        except Unidentified as error:
            self._go_on_without(call, error)

    def _go_on_without(self, call: CallContext, error: Unidentified) -> None:
        """Lets an exempt method be called by nobody in particular; refuses any other."""
        if call.method in self._exempt:
            return
        _log.debug("%s refused: %s", call.method.full_name, error.reason)
        raise GrpcError(error.code, str(error), retry_after=error.retry_after) from None


def _source_of(settings: CommonSettings) -> str:
    source: str = settings.GRPC_AUTH_IDENTITY
    if source == "mtls" and settings.GRPC_TLS_CLIENT_CA_FILE is None:
        raise ConfigError("GRPC_AUTH_IDENTITY=mtls needs GRPC_TLS_CLIENT_CA_FILE")
    if source != "auto":
        return source
    if any(
        getattr(settings, name)
        for name in ("GRPC_JWT_SECRET", "GRPC_JWT_PUBLIC_KEY_FILE", "GRPC_JWT_JWKS")
    ):
        return "jwt"
    # Whoever says which tokens count, and no key, would be served on the word of a header.
    for name in ("GRPC_JWT_ISSUER", "GRPC_JWT_AUDIENCE", "GRPC_JWT_ALGORITHMS"):
        if getattr(settings, name):
            raise ConfigError(
                f"{name} is set but no key to verify tokens with: set GRPC_JWT_SECRET, "
                "GRPC_JWT_PUBLIC_KEY_FILE or GRPC_JWT_JWKS, or GRPC_AUTH_IDENTITY=user-id"
            )
    return "user-id"
