"""Tokens: which count, and every way we know to pass one off."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from auth_tools import (
    SECRET,
    bearer,
    by_hand,
    claims,
    echo_server,
    jwk,
    pem,
    refusal,
    served_with,
    signed,
    trusting,
    who,
    write_keys,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from echo import EchoClient

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc import _jwt
from mysingle.testing import CertificateAuthority, connect, run_server

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(params=["secret", "RS256", "ES256", "set"])
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Any, str]:
    """Options of a server with each kind of key; a key that signs for it; the algorithm."""
    if request.param == "secret":
        return {"jwt_secret": SECRET}, SECRET, "HS256"
    if request.param == "set":
        keys = write_keys(tmp_path / "keys.json", jwk(EC, "k1"), jwk(RSA, "k2"))
        return {"jwt_jwks": str(keys)}, RSA, "RS256"
    key: Any = RSA if request.param == "RS256" else EC
    (tmp_path / "public.pem").write_bytes(pem(key.public_key()))
    return {"jwt_public_key_file": tmp_path / "public.pem"}, key, request.param


@pytest.mark.parametrize("tls", [False, True])
async def test_the_subject_counts_and_a_header_does_not(
    keyed: tuple[dict[str, Any], Any, str], tls: bool, tmp_path: Path
) -> None:
    options, key, algorithm = keyed
    authority = CertificateAuthority(tmp_path)
    credentials = trusting(authority) if tls else None
    if tls:
        options = {**options, **served_with(authority)}
    async with run_server(echo_server(), **options) as server:
        good = signed(key, algorithm=algorithm)
        for _ in range(2):  # verified, then remembered
            assert await who(server, (*good, ("user-id", "mallory")), credentials) == "alice"
        only_header = (("user-id", "mallory"),)
        assert await refusal(server, only_header, credentials) == "Missing bearer token"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 1}, "Token expired"),
        ({"exp": None}, "Invalid token"),
        ({"exp": "soon"}, "Invalid token"),
        ({"exp": 10**400}, "Invalid token"),
        ({"exp": float("inf")}, "Invalid token"),
        ({"exp": float("nan")}, "Invalid token"),
        ({"exp": [1]}, "Invalid token"),
        ({"nbf": time.time() + 3600}, "Invalid token"),
        ({"iat": time.time() + 3600}, "Invalid token"),
        ({"sub": ""}, "Invalid token"),
        ({"sub": " "}, "Invalid token"),
        ({"sub": " alice"}, "Invalid token"),
        ({"sub": "alice\nbob"}, "Invalid token"),
        ({"sub": "a" * 257}, "Invalid token"),
        ({"sub": None}, "Invalid token"),
        ({"sub": 7}, "Invalid token"),
        ({"sub": ["alice"]}, "Invalid token"),
        ({"iss": "other"}, "Invalid token"),
        ({"iss": None}, "Invalid token"),
        ({"iss": ["us"]}, "Invalid token"),
        ({"aud": "other"}, "Invalid token"),
        ({"aud": []}, "Invalid token"),
        ({"aud": {"api": 1}}, "Invalid token"),
    ],
)
async def test_bad_claims(changes: dict[str, Any], message: str) -> None:
    settings = {"jwt_secret": SECRET, "jwt_issuer": "us", "jwt_audience": "api"}
    good = claims(iss="us", aud=["other", "api"])
    bad = {key: value for key, value in {**good, **changes}.items() if value is not None}
    async with run_server(echo_server(), **settings) as server:
        assert await who(server, bearer(jwt.encode(good, SECRET, "HS256"))) == "alice"
        assert await refusal(server, bearer(_hs256(bad))) == message


def _hs256(payload: dict[str, Any], secret: bytes = SECRET.encode(), **header: Any) -> str:
    """A token with a good signature over whatever it may be; PyJWT would not make them all."""
    head = by_hand({"alg": "HS256", "typ": "JWT", **header}, payload).rpartition(".")[0]
    return f"{head}.{_b64(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


def _b64(content: bytes) -> str:
    return by_hand({}, {}, content).rpartition(".")[2]


async def test_claims_nobody_asked_for_are_not_looked_at() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        token = jwt.encode(claims(iss="any", aud="any"), SECRET, "HS256")
        assert await who(server, bearer(token)) == "alice"


async def test_leeway_is_for_clocks_that_differ() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET, jwt_leeway_seconds=3600) as server:
        late = {"exp": time.time() - 1800}
        early = {"nbf": time.time() + 1800}
        for changes in (late, late, early):
            assert await who(server, signed(SECRET, algorithm="HS256", **changes)) == "alice"
        too_late = signed(SECRET, algorithm="HS256", exp=time.time() - 7200)
        assert await refusal(server, too_late) == "Token expired"


async def test_a_remembered_token_expires() -> None:
    options = {"jwt_secret": SECRET, "enable_rate_limiting": False}
    async with run_server(echo_server(), **options) as server, connect(server) as channel:
        token = signed(SECRET, algorithm="HS256", exp=int(time.time()) + 3)
        assert await who(server, token) == "alice"
        code = grpc.StatusCode.OK
        while code is grpc.StatusCode.OK:  # pytest's time-out ends a test that fails
            call = EchoClient(channel).call("Unary", "who:", metadata=token)
            code = await call.code()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert await call.details() == "Token expired"


def test_tokens_are_remembered_by_hash_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_jwt, "_MAX_REMEMBERED", 3)
    verifier = _jwt.TokenVerifier(CommonSettings(_env_file=None, GRPC_JWT_SECRET=SECRET))
    tokens = [jwt.encode(claims(sub=f"user{n}"), SECRET, "HS256") for n in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):  # the second is the least recently used
        verifier.verify(token)
    assert [found[0] for found in verifier._remembered.values()] == ["user2", "user0", "user3"]
    assert not any(token.encode() in repr(verifier._remembered).encode() for token in tokens)


# -- Attacks ------------------------------------------------------------------------------------


def forgeries(public_key: bytes) -> dict[str, str]:
    mallory = ec.generate_private_key(ec.SECP256R1())
    mallory_rsa = rsa.generate_private_key(65537, 2048)
    own_key = jwk(mallory_rsa, "k2")
    return {
        "none": by_hand({"alg": "none"}, claims()),
        "None": by_hand({"alg": "None", "kid": "k2"}, claims()),
        "none, with a signature": by_hand({"alg": "none", "kid": "k2"}, claims(), b"x"),
        "no algorithm": by_hand({"kid": "k2"}, claims(), b"x"),
        "algorithm that is no text": by_hand({"alg": ["RS256"], "kid": "k2"}, claims(), b"x"),
        "public key as shared secret": _hs256(claims(), public_key),
        "the same, with its id": _hs256(claims(), public_key, kid="k2"),
        "empty secret": _hs256(claims(), b""),
        "another key": jwt.encode(claims(), mallory_rsa, "RS256", headers={"kid": "k2"}),
        "another key, other kind": jwt.encode(claims(), mallory, "ES256", headers={"kid": "k1"}),
        "algorithm of another kind of key": by_hand(
            {"alg": "ES256", "kid": "k2"}, claims(), b"x" * 64
        ),
        "the other way round": by_hand({"alg": "RS256", "kid": "k1"}, claims(), b"x" * 256),
        "a key sent along": jwt.encode(
            claims(), mallory_rsa, "RS256", headers={"kid": "k2", "jwk": own_key}
        ),
        "the address of a key": jwt.encode(
            claims(), mallory_rsa, "RS256", headers={"jku": "http://127.0.0.1:9/keys"}
        ),
        "the path of a key": _hs256(claims(), b"", kid="../../../dev/null"),
        "an id that is no text": by_hand({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
        "zero signature": by_hand({"alg": "ES256", "kid": "k1"}, claims(), b"\0" * 64),
        "a longer RSA algorithm": jwt.encode(claims(), RSA, "RS512", headers={"kid": "k2"}),
        "critical header": jwt.encode(claims(), RSA, "RS256", headers={"crit": ["b64"]}),
        "deep header": _b64(b'{"alg":"RS256","x":' + b"[" * 5000) + ".e30.eA",
        "header that is no object": _b64(b"[]") + ".e30.eA",
        "too long": by_hand({"alg": "RS256"}, {"x": "x" * 8200}, b"x"),
        "two parts": "a.b",
        "five parts": "a.b.c.d.e",
        "no part": "...",
        "not base64": "%%%.%%%.%%%",
    }


@pytest.mark.parametrize("name", forgeries(b"x"))
async def test_forgeries(
    name: str, keyed: tuple[dict[str, Any], Any, str], caplog: pytest.LogCaptureFixture
) -> None:
    options, key, algorithm = keyed
    caplog.set_level(logging.DEBUG, logger="mysingle.grpc")
    public_key = RSA if algorithm != "ES256" else EC
    token = forgeries(pem(public_key.public_key()))[name]
    async with run_server(echo_server(), **options, log_level="DEBUG") as server:
        assert await refusal(server, bearer(token)) == "Invalid token"
        assert await who(server, signed(key, algorithm=algorithm)) == "alice"
    assert "/test.Echo/Unary refused: " in caplog.text
    assert token not in caplog.text


async def test_a_token_may_be_8_kib_long_and_no_longer() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        for size, is_good in ((5800, True), (6200, False)):
            metadata = signed(SECRET, algorithm="HS256", more="x" * size)
            assert (len(metadata[0][1]) - len("Bearer ") <= 8192) is is_good
            if is_good:
                assert await who(server, metadata) == "alice"
            else:
                assert await refusal(server, metadata) == "Invalid token"


async def test_a_changed_token_is_not_the_remembered_one() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        token = jwt.encode(claims(), SECRET, "HS256")
        assert await who(server, bearer(token)) == "alice"
        head, _, signature = token.split(".")
        payload = by_hand({}, claims(sub="root")).split(".")[1]
        assert await refusal(server, bearer(f"{head}.{payload}.{signature}")) == "Invalid token"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((("authorization", "Basic YTpi"),), "Missing bearer token"),
        ((("authorization", "Bearer"),), "Missing bearer token"),
        ((("authorization", "Bearer  "),), "Missing bearer token"),
        ((("authorization", ""),), "Missing bearer token"),
        ((("Authorization-bin", b"Bearer x"),), "Missing bearer token"),
    ],
)
async def test_no_bearer_token(metadata: Any, message: str) -> None:
    lower = tuple((key.lower(), value) for key, value in metadata)
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        assert await refusal(server, lower) == message


async def test_the_scheme_is_read_in_any_case_and_two_tokens_are_refused() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server:
        [(_, alice)] = signed(SECRET, algorithm="HS256")
        [(_, bob)] = signed(SECRET, algorithm="HS256", sub="bob")
        assert await who(server, (("authorization", alice.replace("Bearer", "bearer")),)) == "alice"
        both = (("authorization", alice), ("authorization", bob))
        assert await refusal(server, both) == "Invalid token"


# -- Configuration ------------------------------------------------------------------------------


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jwt_secret": "short"}, "GRPC_JWT_SECRET must be at least 32 bytes"),
        ({"jwt_secret": pem(RSA.public_key()).decode()}, "GRPC_JWT_SECRET holds a PEM key"),
        ({"jwt_secret": SECRET, "jwt_jwks": "x"}, "set: GRPC_JWT_SECRET, GRPC_JWT_JWKS"),
        ({"jwt_public_key_file": "/no/such"}, "GRPC_JWT_PUBLIC_KEY_FILE: cannot read /no/such"),
        ({"jwt_public_key_file": b"nothing"}, "GRPC_JWT_PUBLIC_KEY_FILE: .* is no PEM public key"),
        (
            {"jwt_public_key_file": pem(ec.generate_private_key(ec.SECP384R1()).public_key())},
            "GRPC_JWT_PUBLIC_KEY_FILE: .* is neither",
        ),
        (
            {"jwt_public_key_file": pem(rsa.generate_private_key(65537, 1024).public_key())},
            "GRPC_JWT_PUBLIC_KEY_FILE: .* is neither",
        ),
        ({"jwt_secret": SECRET, "jwt_algorithms": ["RS256"]}, "GRPC_JWT_ALGORITHMS: 'RS256'"),
        ({"jwt_secret": SECRET, "jwt_algorithms": ["none"]}, "GRPC_JWT_ALGORITHMS: 'none'"),
        (
            {"jwt_public_key_file": pem(RSA.public_key()), "jwt_algorithms": ["HS256"]},
            "GRPC_JWT_ALGORITHMS: 'HS256' does not go with GRPC_JWT_PUBLIC_KEY_FILE",
        ),
    ],
)
async def test_wrong_configuration_is_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = {
        key: _file(tmp_path, value) if isinstance(value, bytes) else value
        for key, value in settings.items()
    }
    with pytest.raises(ConfigError, match=message) as raised:
        async with run_server(echo_server(), **options):
            pass
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_key_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = _file(tmp_path, pem(RSA.public_key()))
    path.chmod(0)
    with pytest.raises(ConfigError, match="GRPC_JWT_PUBLIC_KEY_FILE: cannot read"):
        async with run_server(echo_server(), jwt_public_key_file=path):
            pass


async def test_algorithms_can_be_narrowed(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", jwk(EC, "k1"), jwk(RSA, "k2"))
    options = {"jwt_jwks": str(keys), "jwt_algorithms": ["ES256"]}
    async with run_server(echo_server(), **options) as server:
        assert await who(server, signed(EC, "k1", "ES256")) == "alice"
        assert await refusal(server, signed(RSA, "k2")) == "Invalid token"
