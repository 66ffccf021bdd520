"""Step 2: who calls."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

import grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._context import CallContext
from mysingle.grpc._errors import GrpcError
from mysingle.grpc._jwt import InvalidToken, TokenVerifier, jwt_is_configured
from mysingle.grpc._method import MethodSet
from mysingle.grpc.interceptors._base import Interceptor

__all__ = ["AuthInterceptor"]

_log = logging.getLogger("mysingle.grpc")
_MAX_USER_ID = 256


class AuthInterceptor(Interceptor):
    """Finds the user id, or refuses the call with `UNAUTHENTICATED`.

    Where it comes from is `GRPC_AUTH_IDENTITY`:

    - `user-id`: the metadata `user-id` or `x-user-id`. Whoever can reach the port can write
      it, so this is for networks where only a gateway can.
    - `jwt`: the subject of the bearer token, once verified. A `user-id` sent along is ignored.
    - `mtls`: the name in the client's certificate: its first alternative name, else its common
      name.

    Exempt methods need none; a valid identity sent to them is used all the same.

    Raises:
        ConfigError: The chosen source lacks the setting it needs.
    """

    def __init__(self, settings: CommonSettings, exempt: MethodSet) -> None:
        self._exempt = exempt
        source = settings.GRPC_AUTH_IDENTITY
        if source == "auto":
            source = "jwt" if jwt_is_configured(settings) else "user-id"
        if source == "mtls" and settings.GRPC_TLS_CLIENT_CA_FILE is None:
            raise ConfigError("GRPC_AUTH_IDENTITY=mtls needs GRPC_TLS_CLIENT_CA_FILE")
        self._verifier = TokenVerifier(settings) if source == "jwt" else None
        self._source = source

    def before(self, call: CallContext) -> Awaitable[None] | None:
        """Sets the user id in the request context.

        Raises:
            GrpcError: `UNAUTHENTICATED`; the method is not exempt and nobody was identified.
        """
        if self._verifier is not None:
            return self._by_token(call, self._verifier)
        user_id = _from_header(call) if self._source == "user-id" else _from_certificate(call)
        if user_id:
            call.request_context.user_id = user_id
        elif call.method not in self._exempt:
            what = "user-id" if self._source == "user-id" else "client certificate"
            raise _refusal(f"Missing {what}")
        return None

    def _by_token(self, call: CallContext, verifier: TokenVerifier) -> Awaitable[None] | None:
        try:
            token = _bearer_token(call)
            known = verifier.known(token)
        except InvalidToken as error:
            self._refuse(call, error)
            return None
        if known is None:
            return self._verify(call, verifier, token)
        call.request_context.user_id = known
        return None

    async def _verify(self, call: CallContext, verifier: TokenVerifier, token: str) -> None:
        try:
            call.request_context.user_id = await verifier.verify(token)
        except InvalidToken as error:
            self._refuse(call, error)

    def _refuse(self, call: CallContext, error: InvalidToken) -> None:
        if call.method in self._exempt:
            return
        _log.debug("token refused: %s", error.reason)
        raise _refusal(str(error)) from None


def _refusal(message: str) -> GrpcError:
    return GrpcError(grpc.StatusCode.UNAUTHENTICATED, message)


def _from_header(call: CallContext) -> str:
    sent = {
        value.strip() if isinstance(value, str) else ""
        for key, value in call.invocation_metadata()
        if key in ("user-id", "x-user-id")
    }
    if len(sent) > 1:  # whoever reads the other one would see another user
        raise _refusal("More than one user-id")
    user_id = sent.pop() if sent else ""
    if len(user_id) > _MAX_USER_ID or not user_id.isprintable():
        raise _refusal("Invalid user-id")
    return user_id


def _from_certificate(call: CallContext) -> str:
    for identity in call.peer_identities() or ():
        return identity.decode("utf-8", "replace")
    return ""


def _bearer_token(call: CallContext) -> str:
    scheme, _, token = call.text("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("Missing bearer token")
    return token.strip()
