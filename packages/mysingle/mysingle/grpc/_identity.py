"""Who calls, as the header or the certificate of a call says."""

from __future__ import annotations

import grpc

from mysingle.grpc._context import CallContext

__all__ = ["Unidentified", "from_certificate", "from_header", "is_user_id"]

_MAX_LENGTH = 256
_HEADERS = ("user-id", "x-user-id")
# The names in a certificate by kind, the most specific first. grpcio's own order, that of the
# certificate, would make an IP address the user where one happens to stand first.
_CERTIFICATE_NAMES = ("peer_uri", "peer_dns", "peer_email", "x509_common_name")


class Unidentified(Exception):
    """Nobody was identified.

    The text is for the caller and always one of a few constants.

    Attributes:
        reason: For our log, never for the caller.
        code: The status that a method which needs an identity answers with.
        retry_after: Seconds after which another try makes sense; None where it never does.
    """

    code = grpc.StatusCode.UNAUTHENTICATED
    retry_after: float | None = None

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def is_user_id(value: object) -> bool:
    """Whether this can be a user id: up to 256 printable characters, no space around them.

    Ids end up in logs, in cache keys and in the metadata of further calls. There a control
    character could forge a line, and a space at an end would be dropped, which makes another
    user of it.
    """
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_LENGTH
        and value.isprintable()
        and value == value.strip()
    )


def from_header(call: CallContext) -> str:
    """The user id in the metadata `user-id` or `x-user-id`.

    Raises:
        Unidentified: There is none, it can be no user id, or there are several.
    """
    metadata = call.metadata
    if len(metadata) == len(call.invocation_metadata()) and "x-user-id" not in metadata:
        # No key is there twice, as in nearly all calls.
        user_id = call.text("user-id").strip()
    else:
        user_id = _only_user_id(call)
    if not user_id:
        raise Unidentified("Missing user-id")
    if not is_user_id(user_id):
        raise Unidentified("Invalid user-id")
    return user_id


def _only_user_id(call: CallContext) -> str:
    sent = {
        value.strip() if isinstance(value, str) else ""
        for key, value in call.invocation_metadata()
        if key in _HEADERS
    }
    if len(sent) > 1:  # whoever reads the other one would see another user
        raise Unidentified("More than one user-id")
    return sent.pop() if sent else ""


def from_certificate(call: CallContext) -> str:
    """The name in the client's certificate: its first URI, DNS name, email, or common name.

    Raises:
        Unidentified: There is no certificate, or no such name in it.
    """
    proven = call.auth_context()
    for kind in _CERTIFICATE_NAMES:
        for name in proven.get(kind, ()):
            try:
                user_id = name.decode()
            except UnicodeDecodeError:
                user_id = ""
            if not is_user_id(user_id):  # not the next one: that may be somebody else
                raise Unidentified("Invalid client certificate", f"{kind} can be no user id")
            return user_id
    raise Unidentified("Missing client certificate", "no URI, DNS name, email or common name")
