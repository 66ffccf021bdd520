"""What the tests of identities share: tokens, keys, and asking a server who it takes one for."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from echo import Echo, EchoClient, add_echo_to_server

from mysingle.testing import CertificateAuthority, Issued, connect, server_of

SECRET = "s" * 32
Metadata = Sequence[tuple[str, str]]


def echo_server() -> Any:
    return server_of(lambda server: add_echo_to_server(Echo(), server))


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": time.time() + 60, **changes}


def bearer(token: str, *more: tuple[str, str]) -> Metadata:
    return (("authorization", f"Bearer {token}"), *more)


def signed(key: Any, key_id: str = "", algorithm: str = "RS256", **changes: Any) -> Metadata:
    """The metadata of a token that is good but for `changes`."""
    headers = {"kid": key_id} if key_id else None
    return bearer(jwt.encode(claims(**changes), key, algorithm, headers=headers))


def by_hand(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    """A token as no library would make it."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def pem(public: Any) -> bytes:
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwk(private: Any, key_id: str, **changes: Any) -> dict[str, Any]:
    kind = (
        jwt.algorithms.RSAAlgorithm if hasattr(private, "decrypt") else jwt.algorithms.ECAlgorithm
    )
    entry = json.loads(kind.to_jwk(private.public_key()))
    return {**entry, "kid": key_id, "use": "sig", **changes}


def write_keys(path: Path, *keys: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    return path


async def who(
    server: Any, metadata: Metadata, credentials: grpc.ChannelCredentials | None = None
) -> str:
    """The user id that a servicer sees."""
    async with connect(server, credentials) as channel:
        [answer] = await EchoClient(channel).texts("Unary", "who:", metadata=metadata)
    return answer.rpartition("/")[0]


async def refusal(
    server: Any,
    metadata: Metadata,
    credentials: grpc.ChannelCredentials | None = None,
    code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED,
) -> str:
    """The message that the server refuses with."""
    async with connect(server, credentials) as channel:
        error = await EchoClient(channel).error("Unary", "who:", metadata=metadata)
    assert error.code() is code, error
    return error.details() or ""


def trusting(
    authority: CertificateAuthority, client: Issued | None = None
) -> grpc.ChannelCredentials:
    """Credentials of a caller, who may have a certificate."""
    return grpc.ssl_channel_credentials(
        authority.ca_file.read_bytes(),
        client.key_file.read_bytes() if client else None,
        client.cert_file.read_bytes() if client else None,
    )


def served_with(authority: CertificateAuthority, *, mutual: bool = False) -> dict[str, Any]:
    """The options of a server with TLS."""
    issued = authority.issue("localhost")
    options = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file}
    return {**options, "tls_client_ca_file": authority.ca_file} if mutual else options


class KeyEndpoint:
    """A real HTTP server with a key set, which can go away, come back, hang and count."""

    def __init__(self, *, tls: Any = None) -> None:
        self.asked = 0
        self.body = b""
        self.redirect = ""
        self.trickles = False
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.port = 0
        self.tls = tls
        self.start()

    def serve(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://localhost:{self.port}/keys"

    def start(self) -> None:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked += 1
                endpoint.entered.set()
                endpoint.release.wait(30)
                self.send_response(302 if endpoint.redirect else 200)
                if endpoint.redirect:
                    self.send_header("location", endpoint.redirect)
                self.end_headers()
                while endpoint.trickles:  # until the other end has had enough
                    self.wfile.write(b" ")
                self.wfile.write(endpoint.body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass

        self.server: HTTPServer = Server(("127.0.0.1", self.port), Handler)
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def stop(self) -> None:
        self.release.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
