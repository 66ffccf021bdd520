"""Who calls: by header, token or certificate; and who only says so."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from echo import SERVICE, Echo, EchoClient, add_echo_to_server

from mysingle.core.errors import ConfigError
from mysingle.testing import connect, run_server, server_of

SECRET = "s" * 32
PEM = serialization.Encoding.PEM


def echo_server() -> Any:
    return server_of(lambda server: add_echo_to_server(Echo(), server))


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": time.time() + 60, **changes}


def bearer(token: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), *more)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public_file(key: Any, tmp_path: Path) -> Path:
    path = tmp_path / "public.pem"
    path.write_bytes(
        key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


async def who(server: Any, metadata: Any) -> str:
    async with connect(server) as channel:
        [answer] = await EchoClient(channel).texts("Unary", "who:", metadata=metadata)
    return answer.partition("/")[0]


async def refusal(server: Any, metadata: Any) -> str:
    async with connect(server) as channel:
        error = await EchoClient(channel).error("Unary", "who:", metadata=metadata)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    return error.details() or ""


@pytest.mark.parametrize("key", ["user-id", "x-user-id"])
async def test_header(key: str) -> None:
    async with run_server(echo_server()) as server:
        assert await who(server, ((key, "alice"),)) == "alice"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((), "Missing user-id"),
        ((("user-id", " "),), "Missing user-id"),
        ((("user-id", "a" * 257),), "Invalid user-id"),
        ((("user-id", "alice"), ("x-user-id", "bob")), "More than one user-id"),
        ((("user-id", "alice"), ("user-id", "bob")), "More than one user-id"),
    ],
)
async def test_bad_header(metadata: Any, message: str) -> None:
    async with run_server(echo_server()) as server:
        assert await refusal(server, metadata) == message


@pytest.mark.parametrize("exempt", [f"/{SERVICE}/Unary", f"/{SERVICE}/*"])
async def test_exempt_methods(exempt: str) -> None:
    async with run_server(echo_server(), auth_exempt_methods=[exempt]) as server:
        assert await who(server, ()) == ""
        assert await who(server, (("user-id", "alice"),)) == "alice"


async def test_exempt_entry_that_is_no_method() -> None:
    with pytest.raises(ConfigError, match="GRPC_AUTH_EXEMPT_METHODS: 'Unary' is no method"):
        async with run_server(echo_server(), auth_exempt_methods=["Unary"]):
            pass


async def test_the_subject_of_a_token_counts_and_a_header_does_not() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        token = jwt.encode(claims(), SECRET, "HS256")
        for _ in range(2):  # verified, then remembered
            assert await who(server, bearer(token, ("user-id", "mallory"))) == "alice"
        assert await refusal(server, (("user-id", "mallory"),)) == "Missing bearer token"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 1}, "Token expired"),
        ({"nbf": time.time() + 3600}, "Invalid token"),
        ({"sub": ""}, "Invalid token"),
        ({"sub": None}, "Invalid token"),
        ({"iss": "other"}, "Invalid token"),
        ({"aud": "other"}, "Invalid token"),
    ],
)
async def test_bad_claims(changes: dict[str, Any], message: str) -> None:
    settings = {"jwt_secret": SECRET, "jwt_issuer": "us", "jwt_audience": "api"}
    good = claims(iss="us", aud="api")
    async with run_server(echo_server(), **settings) as server:
        assert await who(server, bearer(jwt.encode(good, SECRET, "HS256"))) == "alice"
        bad = jwt.encode({**good, **changes}, SECRET, "HS256")
        assert await refusal(server, bearer(bad)) == message


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
async def test_public_keys(kind: str, rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    key: Any = rsa_key if kind == "RS256" else ec.generate_private_key(ec.SECP256R1())
    path = public_file(key, tmp_path)
    async with run_server(echo_server(), jwt_public_key_file=path) as server:
        assert await who(server, bearer(jwt.encode(claims(), key, kind))) == "alice"
        # Forged: signed with the public key as if it were a shared secret, and not at all.
        head = _b64({"alg": "HS256", "typ": "JWT"}) + "." + _b64(claims())
        forged = f"{head}.{_b64_bytes(_hmac(path.read_bytes(), head))}"
        assert await refusal(server, bearer(forged)) == "Invalid token"
        unsigned = _b64({"alg": "none"}) + "." + _b64(claims()) + "."
        assert await refusal(server, bearer(unsigned)) == "Invalid token"
        assert await refusal(server, bearer("x" * 9000)) == "Invalid token"
        assert await refusal(server, bearer("a.b")) == "Invalid token"


def _hmac(key: bytes, text: str) -> bytes:
    import hashlib
    import hmac

    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _b64(value: Any) -> str:
    return _b64_bytes(json.dumps(value).encode())


def _b64_bytes(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auth_identity": "jwt"}, "exactly one of GRPC_JWT_SECRET"),
        ({"jwt_secret": "short"}, "GRPC_JWT_SECRET must be at least 32 bytes"),
        ({"jwt_public_key_file": "/no/such"}, "GRPC_JWT_PUBLIC_KEY_FILE: cannot read /no/such"),
        ({"jwt_jwks": "/no/such"}, "GRPC_JWT_JWKS: cannot read /no/such"),
        ({"jwt_jwks": "http://far.example/keys"}, "GRPC_JWT_JWKS must be a file or an https"),
        ({"jwt_secret": SECRET, "jwt_algorithms": ["RS256"]}, "GRPC_JWT_ALGORITHMS: 'RS256'"),
        ({"auth_identity": "mtls"}, "needs GRPC_TLS_CLIENT_CA_FILE"),
    ],
)
async def test_wrong_configuration_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        async with run_server(echo_server(), **settings):
            pass
    assert "\n" not in str(raised.value)


class KeyEndpoint:
    """A real HTTP server with a key set; counts who asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.keys: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked += 1
                body = json.dumps({"keys": endpoint.keys}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def endpoint() -> Iterator[KeyEndpoint]:
    serving = KeyEndpoint()
    yield serving
    if serving.thread.is_alive():
        serving.close()


async def test_key_set_by_url(endpoint: KeyEndpoint, rsa_key: rsa.RSAPrivateKey) -> None:
    algorithm = jwt.algorithms.RSAAlgorithm
    jwk = json.loads(algorithm.to_jwk(rsa_key.public_key()))
    endpoint.keys = [{**jwk, "kid": "k1", "alg": "RS256", "use": "sig"}]
    token = jwt.encode(claims(), rsa_key, "RS256", headers={"kid": "k1"})
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await who(server, bearer(token)) == "alice"
        for n in range(20):  # an anonymous caller cannot make us ask and ask
            other = jwt.encode(claims(), rsa_key, "RS256", headers={"kid": f"unknown{n}"})
            assert await refusal(server, bearer(other)) == "Invalid token"
        assert endpoint.asked == 1
        endpoint.close()  # the endpoint goes away: what was fetched goes on serving
        fresh = jwt.encode(claims(sub="bob"), rsa_key, "RS256", headers={"kid": "k1"})
        assert await who(server, bearer(fresh)) == "bob"
